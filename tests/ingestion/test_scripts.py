"""The two commands, before anything is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from datasync_ingestion import cli
from datasync_ingestion.cli import parse
from datasync_sandbox.cli import up
from datasync_sandbox.testing import ApiOptions

ROOT = Path(__file__).parents[2]
SCRIPTS = ["run-ingestion.sh", "run-tests.sh", "requirements/compile.sh", "scripts/python.sh"]
TOOLS = ["sh", "cat", "dirname", "env"]


def bare(tmp_path: Path, **pythons: str) -> dict[str, str]:
    """An environment in which only these programs are found."""
    place = tmp_path / "bin"
    place.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found
        (place / tool).symlink_to(found)
    for name, body in pythons.items():
        path = place / name.replace("_", ".")
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    return {"PATH": str(place), "HOME": os.environ.get("HOME", "/")}


def run(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", *words], cwd="/", env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_needs_nothing_installed_not_even_python(tmp_path: Path, option: str) -> None:
    done = run(bare(tmp_path), str(ROOT / "run-ingestion.sh"), "--events", "5", option)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == (ROOT / "ingestion" / "src" / "datasync_ingestion" / "help.txt").read_text()
    )


def test_the_supervisor_shows_the_same_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    help_text = (ROOT / "ingestion" / "src" / "datasync_ingestion" / "help.txt").read_text()
    assert capsys.readouterr().out == help_text


def test_help_says_every_option_and_exit_code() -> None:
    help_text = (ROOT / "ingestion" / "src" / "datasync_ingestion" / "help.txt").read_text()
    options = re.findall(r"add_argument\(\"(--[a-z-]+)\"", Path(cli.__file__).read_text())
    options += re.findall(r"(--[a-z-]+)\)$", (ROOT / "run-ingestion.sh").read_text(), re.MULTILINE)
    assert {"--bulk", "--docker", "--help"} < set(options)
    assert [option for option in options if f"\n  {option} " not in help_text] == []
    for code in (0, 1, 2, 3, 75, 129, 130):
        assert f"\n  {code} " in help_text
    assert max(map(len, help_text.splitlines())) <= 80


def test_options_of_the_sandbox_that_a_load_has_no_use_for_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They would start half of it, start it elsewhere, or nothing at all."""
    of_the_api = {f"--{field.name.replace('_', '-')}" for field in fields(ApiOptions)}
    known = {name for param in up.params for name in param.opts}
    assert set(cli._FOR_THE_SANDBOX_ALONE) == known - of_the_api - {"--db-port"}
    for option in (*cli._FOR_THE_SANDBOX_ALONE, "--dir=/tmp/x"):
        with pytest.raises(SystemExit) as caught:
            parse(["--events", "5", option])
        assert caught.value.code == 2
        assert capsys.readouterr().err == (
            f"'{option}' is an option of .venv/bin/datasync-sandbox alone; "
            "see `sh run-ingestion.sh --help`.\n"
        )
    assert parse(["--malformed=0.1", "--db-port", "0"])[0].sandbox == (
        "--malformed=0.1",
        "--db-port",
        "0",
    )


@pytest.mark.parametrize("script", ["run-ingestion.sh", "run-tests.sh"])
def test_without_a_python_one_sentence_says_so(tmp_path: Path, script: str) -> None:
    old = "exit 1 # too old: the check of its version fails"
    done = run(bare(tmp_path, python3=old), str(ROOT / script))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "No Python from 3.10 to 3.14 was found: install one, or name it with "
        "PYTHON=/path/to/python3.\n"
    )


def test_without_venv_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    fake = "case $2 in *venv*) exit 1 ;; esac"
    done = run(bare(tmp_path, python3=fake), str(ROOT / "run-ingestion.sh"))
    assert done.returncode == 1
    assert done.stderr == (
        "python3 cannot create virtual environments: install its venv package "
        "(on Debian and Ubuntu: apt install python3-venv).\n"
    )


def test_a_newer_python_is_found_under_its_own_name(tmp_path: Path) -> None:
    """As on systems whose python3 is too old."""
    env = bare(tmp_path, python3="exit 1", python3_12='[ "$1" = -c ] || echo "$0 $*"')
    done = run(env, str(ROOT / "run-ingestion.sh"), "--events", "5")
    assert done.returncode == 0
    assert done.stdout.strip().endswith(
        "/python3.12 scripts/setup.py -- .venv/bin/datasync-ingest --events 5"
    )


def test_the_python_that_was_named_is_taken(tmp_path: Path) -> None:
    env = {**bare(tmp_path, python3="exit 1"), "PYTHON": sys.executable}
    program = f'. {ROOT}/scripts/python.sh; echo "$python"'
    done = run(env, "-c", program)
    assert done.stdout.strip() == sys.executable


def test_when_a_python_was_named_no_other_is_taken(tmp_path: Path) -> None:
    fine = '[ "$1" = -c ] || echo "$*"'
    env = {**bare(tmp_path, python3=fine), "PYTHON": "/opt/no/python"}
    done = run(env, str(ROOT / "run-tests.sh"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "PYTHON names /opt/no/python, which is no Python from 3.10 to 3.14: "
        "name another one, or unset it.\n"
    )


def test_the_fast_suite_is_the_default_and_can_be_overruled(tmp_path: Path) -> None:
    env = bare(tmp_path, python3='[ "$1" = -c ] || echo "$*"')
    done = run(env, str(ROOT / "run-tests.sh"), "-m", "slow")
    assert done.stdout.strip() == (
        "scripts/setup.py --tests -- .venv-tests/bin/python -m pytest -m not slow -m slow"
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_posix(script: str) -> None:
    dash = shutil.which("dash")
    if dash is None:
        pytest.skip("there is no dash here")
    assert subprocess.run([dash, "-n", ROOT / script], check=False).returncode == 0
