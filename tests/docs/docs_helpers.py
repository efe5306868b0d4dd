"""What the documentation's tests share: the files, and what is in them."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def markdown() -> list[Path]:
    """List the project's Markdown files; what a checkout makes for itself is hidden or ignored."""
    found = []
    for directory, folders, files in os.walk(ROOT):
        # Not entered at all: the environments in there hold tens of thousands of files.
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name not in {"node_modules", "build", "dist"}
        ]
        found += [Path(directory, name) for name in files if name.endswith(".md")]
    return sorted(found)


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    return [text for name, text in _FENCE.findall(path.read_text()) if name == language]


def without_blocks(text: str) -> str:
    """Take the fenced blocks out."""
    return _FENCE.sub("", text)


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a file."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(path.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def commands(path: Path) -> list[str]:
    """Return the commands of the `sh` blocks: a line each, without comments."""
    found = []
    for block in blocks(path, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"(^|\s)#.*", "", line).strip()
            if command:
                found.append(re.sub(r"\s+", " ", command))
    return found
