"""The commands of the project, before anything is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ["sh", "cat", "dirname", "env"]


def bare(tmp_path: Path, **pythons: str) -> dict[str, str]:
    """An environment in which only these programs are found."""
    place = tmp_path / "bin"
    place.mkdir(parents=True)
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
def test_help_needs_no_installation_and_no_python(tmp_path: Path, option: str) -> None:
    done = run(bare(tmp_path), str(ROOT / "run-ingestion.sh"), "--events", "5", option)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == (ROOT / "ingestion" / "src" / "datasync_ingestion" / "help.txt").read_text()
    )


NO_PYTHON = (
    "No Python from 3.10 to 3.14 found (looked for: {}). "
    "Install one, or set PYTHON=/path/to/python3.\n"
)


def copy_scripts(root: Path) -> Path:
    """Return a checkout that contains only the two commands and scripts/install.sh."""
    (root / "scripts").mkdir(parents=True)
    for name in ("run-ingestion.sh", "run-tests.sh", "scripts/install.sh"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.mark.parametrize("script", ["run-ingestion.sh", "run-tests.sh"])
def test_missing_python_is_one_message(tmp_path: Path, script: str) -> None:
    old = "exit 1 # too old: the check of its version fails"
    done = run(bare(tmp_path, python3=old), str(copy_scripts(tmp_path / "root") / script))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == NO_PYTHON.format("python3 on the PATH")


def test_newer_python_is_found_under_its_own_name(tmp_path: Path) -> None:
    env = bare(tmp_path, python3="exit 1", python3_12='[ "$1" = -c ] || echo "$0 $*"')
    root = copy_scripts(tmp_path / "root")
    done = run(env, str(root / "run-ingestion.sh"), "--events", "5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(
        f"/python3.12 {root}/scripts/install.py -- .venv/bin/datasync-ingest --events 5"
    )


def test_named_python_is_the_only_one(tmp_path: Path) -> None:
    works = '[ "$1" = -c ] || echo "$0"'
    script = str(copy_scripts(tmp_path / "root") / "run-ingestion.sh")
    env = bare(tmp_path, python3=works)
    done = run({**env, "PYTHON": "/opt/no/python"}, script)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == NO_PYTHON.format("/opt/no/python")
    (tmp_path / "own python").symlink_to(tmp_path / "bin" / "python3")
    done = run({**env, "PYTHON": str(tmp_path / "own python")}, script)
    assert done.stdout == f"{tmp_path}/own python\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_checkout_of_another_user_names_the_fix(tmp_path: Path) -> None:
    root = copy_scripts(tmp_path / "root")
    (root / ".run").mkdir(mode=0o500)
    done = run(bare(tmp_path), str(root / "run-ingestion.sh"))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{root}/.run cannot be written" in done.stderr
    assert f"sudo chown -R \"$(id -un)\" '{root}'" in done.stderr


def test_stopping_the_sandbox_installs_nothing(tmp_path: Path) -> None:
    root = copy_scripts(tmp_path / "root")
    done = run(bare(tmp_path), str(root / "run-ingestion.sh"), "--stop-sandbox")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "No sandbox runs here: nothing is installed.\n"
    program = root / ".venv" / "bin" / "datasync-ingest"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$*"\n')
    program.chmod(0o755)
    done = run(bare(tmp_path / "again"), str(root / "run-ingestion.sh"), "--stop-sandbox")
    assert done.stdout == "--stop-sandbox\n"


def test_fast_suite_is_the_default_and_can_be_overruled(tmp_path: Path) -> None:
    env = bare(tmp_path, python3='[ "$1" = -c ] || echo "$*"')
    script = str(copy_scripts(tmp_path / "root") / "run-tests.sh")
    words = run(env, script, "-m", "slow").stdout.split("/scripts/install.py ")[1]
    assert words == (
        "--dev -- .venv-dev/bin/python -m pytest -n 2 --dist worksteal -m not slow -m slow\n"
    )


@pytest.mark.parametrize("name", ["tap-datasync", "target-postgres", "target-postgres-checkpoint"])
def test_plugin_is_installed_when_meltano_first_runs_it(tmp_path: Path, name: str) -> None:
    """`meltano run` in a new clone, with a Meltano that is installed elsewhere."""
    root = tmp_path / "root"
    shutil.copytree(ROOT / "plugins" / "bin", root / "plugins" / "bin", symlinks=True)
    (root / "scripts").mkdir()
    program = root / ".venv" / "bin" / name
    (root / "scripts" / "install.sh").write_text(
        f"echo Installing\nmkdir -p '{program.parent}'\n"
        f"printf '#!/bin/sh\\necho \"$0 $*\"' >'{program}'\nchmod +x '{program}'\n"
    )
    for installed in ("Installing\n", ""):
        command = [root / "plugins" / "bin" / name, "--config", "c"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == (f"{program} --config c\n", installed)
