"""The commands that the documentation shows exist, with those options; the cheap ones are run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml
from docs_helpers import ROOT, commands, markdown

BIN = Path(sys.executable).parent
MODULES = {
    "tap_datasync",
    "target_config",
    "datasync_ingestion",
    "datasync_sandbox",
    "datasync_monitor",
}
SHOWN = [
    pytest.param(path, command, id=f"{path.relative_to(ROOT).as_posix()}: {command}")
    for path in markdown()
    for command in commands(path)
]
CHEAP = re.compile(r"--(help|version|about|discover|list)\b")


def scripts() -> set[str]:
    """Return the executables of our packages."""
    return {
        script.name
        for script in entry_points(group="console_scripts")
        if script.module.partition(".")[0] in MODULES
    }


@pytest.mark.parametrize(("path", "command"), SHOWN)
def test_a_command_exists(path: Path, command: str) -> None:
    words = shlex.split(command.split("|", maxsplit=1)[0])
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    if not words:
        return
    if words[0] in {"sudo", "exec"}:
        words.pop(0)
    program, rest = words[0], words[1:]
    if program in {"sh", "bash"} and rest:
        assert (ROOT / rest[0]).exists() or (path.parent / rest[0]).exists(), rest[0]
        if Path(rest[0]).name == "run-ingestion.sh":
            said = (ROOT / "ingestion/src/datasync_ingestion/help.txt").read_text()
            for word in rest[1:]:
                if word.startswith("--"):
                    assert word.partition("=")[0] in said or is_of_the_sandbox(word), word
    elif program.startswith((".venv/bin/", ".venv-tests/bin/", ".venv-checks/bin/")):
        assert Path(program).name in {*scripts(), "meltano", "python", "pytest"}, program
    elif program == "docker" and rest[:1] == ["compose"]:
        services = set(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])
        named = {word for word in rest if word in {"postgres", "ingestion", "dashboard", "sandbox"}}
        assert named <= services


def is_of_the_sandbox(option: str) -> bool:
    from datasync_sandbox.cli import up  # noqa: PLC0415

    return option.partition("=")[0] in {name for param in up.params for name in param.opts}


@pytest.mark.parametrize(("path", "command"), [case for case in SHOWN if CHEAP.search(case.id)])
def test_a_cheap_command_runs(path: Path, command: str, tmp_path: Path) -> None:
    assert path.exists()
    program = shlex.split(command)[0]
    if "|" in command or program not in {"sh", *scripts()}:
        pytest.skip("runs with something else than this checkout")
    words = shlex.split(command)
    if "bench/run.sh" in words:
        pytest.skip("installs environments of its own first")
    if program != "sh":
        words[0] = str(BIN / program)
    config = tmp_path / "config.json"
    config.write_text('{"api_url": "http://127.0.0.1:9/api/v1", "api_key": "none"}')
    words = [str(config) if word.endswith("config.json") else word for word in words]
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
