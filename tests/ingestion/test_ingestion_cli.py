"""The command line, and the help text that needs no installation."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner
from datasync_ingestion import cli
from datasync_ingestion.config import NAMES
from datasync_ingestion.errors import SignalWatcher
from datasync_monitor.environment import SECRETS
from datasync_sandbox.cli import up
from datasync_sandbox.testing import ApiOptions

ROOT = Path(__file__).parents[2]
HELP = (ROOT / "ingestion/src/datasync_ingestion/help.txt").read_text()


def invoke(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.command, arguments, obj=SignalWatcher())
    return done.exit_code, done.output


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_equals_the_text_that_the_script_prints(option: str) -> None:
    assert invoke("--events", "5", option) == (0, HELP)


def test_help_lists_every_option_and_exit_code() -> None:
    options = [name for param in cli.command.params for name in param.opts if name[0] == "-"]
    script = (ROOT / "run-ingestion.sh").read_text()
    options += re.findall(r"--[a-z-]+(?=[^\n]*\))", script)
    assert {"--full-refresh", "--stop-sandbox", "--docker", "--help"} < set(options)
    assert [option for option in options if f"\n  {option} " not in HELP] == []
    for code in (0, 1, 2, 3, 75, 129, 130):
        assert f"\n  {code} " in HELP
    assert max(map(len, HELP.splitlines())) <= 80


def test_help_names_every_setting() -> None:
    names = [*NAMES, *(f"{name}_FILE" for name in SECRETS)]
    assert [name for name in names if not re.search(rf"\b{name}\b", HELP)] == []


def test_refuses_sandbox_options_that_a_run_sets_itself() -> None:
    api_options = {f"--{field.name.replace('_', '-')}" for field in fields(ApiOptions)}
    known = {name for param in up.params for name in param.opts}
    assert set(cli._SANDBOX_ONLY) == known - api_options - {"--db-port"}
    for option in (*cli._SANDBOX_ONLY, "--dir=/tmp/x"):
        code, output = invoke("--events", "5", option)
        assert code == 2
        name = option.partition("=")[0]
        assert f"Error: {name} is an option of .venv/bin/datasync-sandbox only." in output


@pytest.mark.parametrize("other", [["--verbose"], ["--events", "5"], ["--full-refresh"]])
def test_stop_sandbox_is_refused_with_other_options(other: list[str]) -> None:
    code, output = invoke("--stop-sandbox", *other)
    assert code == 2
    assert "--stop-sandbox cannot be combined with other options." in output
