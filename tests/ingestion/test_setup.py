"""The installation: done once, done whole, and done again when anything has changed."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from datasync_ingestion import lock
from ingestion_helpers import is_alive, until

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
MELTANO_YML = (ROOT / "meltano.yml").read_text()


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, in an empty place."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "setup_script", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


class Steps:
    """One step that writes a file and counts how often."""

    def __init__(self, setup: ModuleType, home: Path) -> None:
        self.setup, self.home, self.made = setup, home, 0
        self.inputs = b"1"
        self.failing: list[str] = []

    def __call__(self, **_wanted: bool) -> list[Any]:
        return [
            self.setup.Step(
                title="the thing",
                home=self.home,
                inputs=self.inputs,
                probes=[["test", "-e", self.home / "thing"]],
                install=self.install,
            )
        ]

    def install(self, run: Any) -> None:
        self.made += 1
        self.home.mkdir(exist_ok=True)
        run(*(self.failing or ["touch", self.home / "thing"]))


@pytest.fixture
def steps(setup: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps = Steps(setup, tmp_path / "home")
    monkeypatch.setattr(setup, "steps", steps)
    return steps


def test_it_is_done_once(
    setup: ModuleType, steps: Steps, capsys: pytest.CaptureFixture[str]
) -> None:
    assert setup.main([]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "Installing the thing ..."
    assert setup.main([]) == 0
    assert steps.made == 1
    assert capsys.readouterr().out == ""


def test_a_changed_input_does_it_again(setup: ModuleType, steps: Steps) -> None:
    setup.main([])
    steps.inputs = b"2"
    setup.main([])
    assert steps.made == 2


def test_another_python_or_another_place_does_it_again(
    setup: ModuleType, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.main([])
    monkeypatch.setattr(setup.sys, "version", "3.99 (another)")
    setup.main([])
    assert steps.made == 2
    steps.home = steps.home.rename(steps.home.with_name("moved"))
    setup.main([])
    assert steps.made == 3


def test_what_no_longer_works_is_done_again(setup: ModuleType, steps: Steps) -> None:
    """As when the Python that the environment was made with has gone."""
    setup.main([])
    (steps.home / "thing").unlink()
    setup.main([])
    assert steps.made == 2


def test_a_failure_shows_the_end_of_the_log_and_is_not_taken_for_done(
    setup: ModuleType, steps: Steps, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    steps.failing = ["sh", "-c", "seq 1 100; echo no room on the disk >&2; exit 3"]
    assert setup.main([]) == 1
    said = capsys.readouterr().err
    assert "    no room on the disk\n" in said
    assert "    100\n" in said
    assert "    50\n" not in said
    assert str(tmp_path / ".run" / "install.log") in said
    steps.failing = []
    assert setup.main([]) == 0
    assert steps.made == 2


def test_a_step_that_was_cut_off_is_done_again(setup: ModuleType, steps: Steps) -> None:
    setup.main([])
    steps.inputs, steps.failing = b"2", ["false"]
    setup.main([])
    steps.inputs, steps.failing = b"1", []
    setup.main([])
    assert steps.made == 3


def test_a_second_installation_waits_for_the_first(
    setup: ModuleType, steps: Steps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".run").mkdir()
    with setup.only_one(tmp_path / ".run" / "install.lock"):
        second = threading.Thread(target=setup.main, args=([],))
        second.start()
        until(lambda: "waiting for it" in capsys.readouterr().out)
        assert steps.made == 0
    second.join()
    assert steps.made == 1


def test_ended_by_a_signal_it_takes_its_commands_along(tmp_path: Path) -> None:
    """And the lock is held for as long as one of them lives, also after SIGKILL."""
    program = f"""
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("s", {str(ROOT / "scripts" / "setup.py")!r})
s = importlib.util.module_from_spec(spec)
sys.modules["s"] = s
spec.loader.exec_module(s)
s.signal.signal(s.signal.SIGTERM, lambda number, _: s._signals.append(number))
place = pathlib.Path({str(tmp_path)!r})
s.ROOT = place
with s.only_one(place / "lock") as lock:
    s.Runner(place / "log", lock)("sh", "-c", "echo $$ > pid; sleep 60 & wait")
"""

    def start() -> tuple[subprocess.Popen[bytes], int]:
        (tmp_path / "pid").unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", program])
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
        return process, int((tmp_path / "pid").read_text())

    process, child = start()
    process.terminate()
    assert process.wait() == 143
    assert not is_alive(child)

    process, child = start()
    process.kill()
    process.wait()
    assert is_alive(child)
    blocked = subprocess.run(["flock", "-n", tmp_path / "lock", "true"], check=False)
    assert blocked.returncode == 1
    os.killpg(child, signal.SIGKILL)


def test_nothing_is_installed_under_a_load(
    setup: ModuleType, steps: Steps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".run").mkdir()
    with lock.only_one(tmp_path / ".run" / "run.lock"):
        assert setup.main([]) == 75
        assert steps.made == 0
        assert capsys.readouterr().err == (
            f"Another run is under way here (process {os.getpid()}): "
            "wait for it, or stop it with Ctrl-C.\n"
        )
    assert setup.main([]) == 0
    with lock.only_one(tmp_path / ".run" / "run.lock"):
        assert setup.main([]) == 0
    assert steps.made == 1


def test_no_load_begins_while_something_is_installed(
    setup: ModuleType, steps: Steps, tmp_path: Path
) -> None:
    program = (
        "import pathlib, sys\n"
        "from datasync_ingestion import lock\n"
        "with lock.only_one(pathlib.Path(sys.argv[1])): pass\n"
    )
    steps.failing = [sys.executable, "-c", program, str(tmp_path / ".run" / "run.lock")]
    assert setup.main([]) == 1
    said = (tmp_path / ".run" / "install.log").read_text()
    assert f"BusyError: Another run is under way here (process {os.getpid()})" in said


def test_a_lock_that_cannot_be_had_at_all_is_no_reason_to_wait(
    setup: ModuleType,
    steps: Steps,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(setup.fcntl, "flock", no_locks)
    assert setup.main([]) == 1
    assert capsys.readouterr().err.endswith("No locks available.\n")
    assert steps.made == 0


def test_a_signal_that_is_ignored_stays_so(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SIGHUP is under `nohup`."""
    taken: list[int] = []
    ignored = {signal.SIGHUP: signal.SIG_IGN}
    monkeypatch.setattr(setup.signal, "getsignal", ignored.get)
    monkeypatch.setattr(setup.signal, "signal", lambda number, _handler: taken.append(number))
    setup.note_signals()
    assert taken == [signal.SIGINT, signal.SIGTERM]


def test_it_becomes_the_command_that_it_was_given(
    setup: ModuleType, steps: Steps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    became: list[Any] = []
    monkeypatch.setattr(setup.os, "execv", lambda *words: became.append(words))
    monkeypatch.chdir(tmp_path)
    setup.main(["--", ".venv/bin/datasync-ingest", "--events", "5", "--help"])
    assert became == [
        (".venv/bin/datasync-ingest", [".venv/bin/datasync-ingest", "--events", "5", "--help"])
    ]
    assert steps.made == 1


def installed(setup: ModuleType, text: str) -> str:
    return "\n".join(setup._INSTALLED_KEYS.findall(text))


def test_only_what_is_installed_counts_in_meltano_yml(setup: ModuleType) -> None:
    found = installed(setup, MELTANO_YML)
    assert "requirements/tap.txt" in found
    assert "requirements/target.txt" in found
    assert found.count("--require-build-hashes") == MELTANO_YML.count("--require-build-hashes")
    assert "executable: target-postgres-checkpoint" in found
    assert "backend: uv" in found
    assert "54329" not in found
    assert "description" not in found


@pytest.mark.parametrize(
    ("place", "added"),
    [
        ("    settings:\n", "    - name: a_setting\n      kind: integer\n"),
        ("jobs:\n", "- name: a-job\n  tasks:\n  - tap-datasync target-postgres\n"),
        ("schedules:\n", "- name: hourly\n  interval: '@hourly'\n  job: load\n"),
        ("environments:\n", "- name: staging\n"),
    ],
)
def test_what_installs_nothing_is_no_reason_to_install(
    setup: ModuleType, place: str, added: str
) -> None:
    assert place in MELTANO_YML
    changed = MELTANO_YML.replace(place, place + added, 1)
    assert installed(setup, changed) == installed(setup, MELTANO_YML)


def test_every_line_of_an_address_is_a_reason_to_install(setup: ModuleType) -> None:
    for old in ("requirements/tap.txt", "executable: tap-datasync", "variant: meltanolabs"):
        changed = MELTANO_YML.replace(old, f"{old}2")
        assert installed(setup, changed) != installed(setup, MELTANO_YML)


def test_every_step_of_the_project_has_its_locks(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "ROOT", ROOT)

    def names(**wanted: bool) -> list[str]:
        return [step.home.name for step in setup.steps(**wanted)]

    assert names(tests=False, checks=False) == [".venv", ".meltano"]
    assert names(tests=True, checks=False) == [".venv", ".meltano", ".venv-tests"]
    assert names(tests=False, checks=True) == [".venv", ".meltano", ".venv-checks"]
    for step in setup.steps(tests=True, checks=True):
        assert b"sha256:" in step.inputs


def test_a_mirror_that_pip_knows_is_handed_on(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = Path(sys.executable)
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    listing = "global.index-url='https://a/simple'\n:env:.index-url='https://b/simple'\n"

    def run(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, stdout=listing)

    monkeypatch.setattr(setup.subprocess, "run", run)
    assert setup.uv_env(python)["UV_DEFAULT_INDEX"] == "https://b/simple"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine/simple")
    assert "UV_DEFAULT_INDEX" not in setup.uv_env(python)
