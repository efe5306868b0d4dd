"""The commands that the documentation shows exist, with those options; the cheap ones are run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import entry_points
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasync_ingestion.meltano import STATE_ID
from docs_helpers import ROOT, commands, markdown

BIN = Path(sys.executable).parent
MODULES = {
    "tap_datasync",
    "target_config",
    "datasync_ingestion",
    "datasync_sandbox",
    "datasync_monitor",
}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
MELTANO = yaml.safe_load((ROOT / "meltano.yml").read_text())
ACCOUNTS = yaml.safe_load((ROOT / "examples/two-accounts/accounts.meltano.yml").read_text())
PLUGINS: dict[str, dict[str, Any]] = {
    plugin["name"]: plugin for kind in MELTANO["plugins"].values() for plugin in kind
}
SHOWN = [
    pytest.param(path, command, id=f"{path.relative_to(ROOT).as_posix()}: {command}")
    for path in markdown()
    for command in commands(path)
]
CHEAP = re.compile(r"--(help|version|about|discover|list)\b")


@cache
def scripts() -> set[str]:
    """Return the executables of our packages."""
    return {
        script.name
        for script in entry_points(group="console_scripts")
        if script.module.partition(".")[0] in MODULES
    }


def words_of(command: str) -> list[str]:
    """Return the program and its arguments, without the shell's variables, pipes and files."""
    words = list(takewhile(lambda word: word[:1] not in {"|", ">"}, shlex.split(command)))
    while words and re.match(r"\w+=", words[0]):
        words.pop(0)
    return words


def options(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def names(words: list[str]) -> list[str]:
    return [word for word in words if not word.startswith("-")]


@cache
def help_of(*words: str) -> str:
    """Return what one of our programs, or a command of it, says of itself."""
    done = subprocess.run(
        [BIN / words[0], *words[1:], "--help"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_script(name: str, arguments: list[str], path: Path) -> None:
    """Look at a shell script: the text that names its options is not always its own."""
    script = ROOT / name if (ROOT / name).exists() else path.parent / name
    text = script.read_text()
    if name == "run-tests.sh":
        assert all((ROOT / word).exists() for word in arguments if word.startswith("tests/"))
        return
    if name == "run-ingestion.sh":
        text = (ROOT / "ingestion/src/datasync_ingestion/help.txt").read_text()
        text += help_of("datasync-sandbox", "up")
    elif name == "bench/run.sh":
        text = (ROOT / "bench/datasync_bench/cli.py").read_text() + "--help"
    assert all(option in text for option in options(arguments)), script


def check_meltano(verb: str, arguments: list[str]) -> None:
    """Look at the names of ours that Meltano is given; its verbs and options are its own."""
    named = names(arguments)
    if verb == "run":
        jobs = [job["name"] for each in (MELTANO, ACCOUNTS) for job in each["jobs"]]
        assert set(named) <= {*PLUGINS, *jobs}
    elif verb == "invoke":
        plugin, _, command = named[0].partition(":")
        assert not command or command in PLUGINS[plugin]["commands"]
        assert all(word in help_of(Path(PLUGINS[plugin]["executable"]).name) for word in options(arguments))
    elif verb == "schedule":
        assert set(named[1:]) <= {schedule["name"] for schedule in MELTANO["schedules"]}
    elif verb == "state":
        assert all(word == STATE_ID for word in named[1:] if ":" in word)
    else:
        assert verb == "add"


def check_compose(arguments: list[str]) -> None:
    """Look at the services and the profiles that Compose is given."""
    services, profiles = COMPOSE["services"], {"sandbox"}
    words, named = iter(arguments), []
    for word in words:
        if word in {"--profile", "--env"}:
            assert next(words) in profiles or word != "--profile"
        else:
            named += names([word])
    verb, *others = named
    assert set(others[:1] if verb == "run" else others) <= set(services)


@pytest.mark.parametrize(("path", "command"), SHOWN)
def test_a_command_exists(path: Path, command: str) -> None:
    words = words_of(command)
    if not words:
        return
    place, program, arguments = Path(words[0]).parent, Path(words[0]).name, words[1:]
    assert place.as_posix() in {".", ".venv/bin", ".venv-dev/bin"}, place
    if program in scripts():
        said = help_of(program, *takewhile(lambda word: not word.startswith("-"), arguments))
        assert all(word in said for word in options(arguments))
    elif program == "sh":
        check_script(arguments[0], arguments[1:], path)
    elif program == "meltano":
        check_meltano(arguments[0], arguments[1:])
    elif program == "docker":
        assert arguments[0] == "compose"
        check_compose(arguments[1:])
    elif program == "python":
        assert arguments[0] == "-m"
        text = (ROOT / arguments[1].replace(".", "/") / "__main__.py").read_text()
        assert all(option in text for option in options(arguments))
    elif program in {"cp", "pip"}:
        source = arguments[0] if program == "cp" else arguments[1].partition("[")[0]
        assert (ROOT / source).exists()
    else:
        assert program in {"echo", "export", "pg_dump", "set"}, f"nobody looks at {program} here"


@pytest.mark.parametrize(
    ("path", "command"),
    [
        case
        for case in SHOWN
        if CHEAP.search(case.values[1])
        and Path(words_of(case.values[1])[0]).name in {"sh", *scripts()}
        # Installs environments of its own first.
        and "bench/run.sh" not in case.values[1]
    ],
)
def test_a_cheap_command_runs(path: Path, command: str, tmp_path: Path) -> None:
    assert path.exists()
    words = words_of(command)
    if words[0] != "sh":
        words[0] = str(BIN / Path(words[0]).name)
    config = tmp_path / "config.json"
    config.write_text('{"api_url": "http://127.0.0.1:9/api/v1", "api_key": "none"}')
    words = [str(config) if word.endswith("config.json") else word for word in words]
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
