"""Settings by name: from the environment, or else from `.env`; secrets also from files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values
from dotenv.parser import parse_stream

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

SECRETS = ("API_KEY", "DB_PASSWORD")
"""They may be given as the path of a file instead, in NAME_FILE. NAME wins."""

_SECRET_FILE_SIZE = 4096


def read_settings(names: Collection[str], *sources: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that are not empty, each from the first source that has it.

    Raises:
        ValueError: The file of a secret cannot be read, or is empty; the message names it.
    """
    settings: dict[str, str] = {}
    for source in sources:
        for name in names:
            if name in settings:
                continue
            value = _secret(source, name) if name in SECRETS else source.get(name, "")
            # A password may begin or end with a space.
            value = value if name == "DB_PASSWORD" else value.strip()
            if value:
                settings[name] = value
    return settings


def read_env_file(path: Path) -> dict[str, str]:
    """Read a `.env` file; one that does not exist is empty.

    Single quotes make a value literal, as in a shell and in Docker Compose. python-dotenv alone
    would expand `${NAME}` there too, and corrupt a password that contains it.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        expanded, literal = dotenv_values(path), dotenv_values(path, interpolate=False)
        with path.open(encoding="utf-8") as file:
            quoted = {
                binding.key
                for binding in parse_stream(file)
                if binding.key and re.search(r"=\s*'", binding.original.string)
            }
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read: {error}."
        raise ValueError(message) from None
    values = {name: literal[name] if name in quoted else expanded[name] for name in expanded}
    return {name: value for name, value in values.items() if value is not None}


def _secret(source: Mapping[str, str], name: str) -> str:
    """Return a secret, or else the content of the file that `<name>_FILE` names, or else ""."""
    path = source.get(f"{name}_FILE")
    if source.get(name) or not path:
        return source.get(name, "")
    try:
        with Path(path).open(encoding="utf-8") as file:
            secret = file.read(_SECRET_FILE_SIZE).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        message = f"{name}_FILE: {path} cannot be read: {reason}."
        raise ValueError(message) from None
    if not secret:
        message = f"{name}_FILE: {path} is empty."
        raise ValueError(message)
    return secret
