"""Meltano as a child process: followed, stopped in order, and cleaned up after a kill."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from datasync_ingestion import meltano
from datasync_ingestion.errors import BusyError
from datasync_ingestion.meltano import (
    PIPELINE_VARIABLE,
    Pipeline,
    exclusive_lock,
    parse_line,
    pipeline_processes,
    stop_orphaned_pipeline,
)
from ingestion_helpers import is_alive, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    import psutil
    from ingestion_helpers import Checkout


def start(checkout: Checkout) -> Pipeline:
    env = {**os.environ, "MELTANO_PROJECT_ROOT": str(checkout.root), "API_KEY": "k"}
    return Pipeline(checkout.root, env)


def lines(running: Pipeline) -> list[str]:
    """All that it logs, to the end."""
    found = []
    while (text := running.next_line(0.1)) is not None:
        if text:
            found.append(parse_line(text).text)
    return found


def wait_for_tap(checkout: Checkout, running: Pipeline) -> psutil.Process:
    wait_for(lambda: "Page 1" in (running.next_line(0.1) or ""))
    (tap,) = [p for p in pipeline_processes(checkout.root) if meltano._is_tap(p)]
    return tap


def configs(checkout: Checkout) -> list[Path]:
    return list((checkout.root / ".meltano" / "run").glob("*/*.config.json"))


def meltano_pid(checkout: Checkout) -> int:
    return int(checkout.calls("run")[0]["pid"])


def test_returns_log_line_by_line_until_process_ends(checkout: Checkout) -> None:
    checkout.plan({"log": [{"event": "one"}, {"event": "two"}], "exit": 3})
    running = start(checkout)
    assert lines(running) == ["Running job", "one", "two"]
    assert running.wait() == 3
    (call,) = checkout.calls("run")
    assert call["words"] == [
        *("--log-format=json", "--environment=dev", "run", "--no-install", "--force"),
        *("tap-datasync", "target-postgres"),
    ]


def test_stops_tap_first_so_that_meltano_saves_state(checkout: Checkout) -> None:
    checkout.plan({"tap": {"seconds": 60}})
    running = start(checkout)
    tap = wait_for_tap(checkout, running)
    # Ctrl-C in the terminal must not reach it before.
    assert os.getsid(tap.pid) == meltano_pid(checkout) != os.getsid(0)
    running.stop()
    assert pipeline_processes(checkout.root) == []
    found = [parse_line(text).fields for text in iter(lambda: running.next_line(0.1), None) if text]
    assert found[-1]["exit_codes"] == {"extractors": 143}


def test_kills_tap_that_ignores_sigterm(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TAP_STOP_SECONDS", "MELTANO_STOP_SECONDS", "REMAINING_STOP_SECONDS"):
        monkeypatch.setattr(meltano, name, 0.2)
    checkout.plan({"tap": {"seconds": 60, "ignores_sigterm": True}})
    running = start(checkout)
    tap = wait_for_tap(checkout, running)
    running.stop()
    wait_for(lambda: not is_alive(tap.pid))
    assert pipeline_processes(checkout.root) == []


def test_stop_timeouts_are_below_docker_grace_period() -> None:
    steps = (meltano.TAP_STOP_SECONDS, meltano.MELTANO_STOP_SECONDS, meltano.REMAINING_STOP_SECONDS)
    assert sum(steps) < 8


def test_stops_pipeline_before_tap_has_started(checkout: Checkout) -> None:
    checkout.plan({"tap": {"seconds": 60}})
    running = start(checkout)
    running.stop()
    assert pipeline_processes(checkout.root) == []


def test_removes_processes_and_configs_of_killed_meltano(checkout: Checkout) -> None:
    """An old tap must not send requests beside a new one, and no file may contain the key."""
    checkout.plan({"tap": {"seconds": 60}})
    running = start(checkout)
    tap = wait_for_tap(checkout, running)
    assert configs(checkout)
    os.kill(meltano_pid(checkout), signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    wait_for(lambda: not is_alive(tap.pid))
    assert configs(checkout) == []


@pytest.mark.parametrize("killed_too", ["nothing", "meltano"])
def test_stops_pipeline_of_killed_run(checkout: Checkout, killed_too: str) -> None:
    checkout.plan({"tap": {"seconds": 60}})
    running = start(checkout)
    tap = wait_for_tap(checkout, running)
    if killed_too == "meltano":
        os.kill(meltano_pid(checkout), signal.SIGKILL)
        wait_for(lambda: not is_alive(meltano_pid(checkout)))
    assert is_alive(tap.pid)
    assert stop_orphaned_pipeline(checkout.root)
    # A process that is ending has no environment any more, and is not found by it.
    wait_for(lambda: not is_alive(tap.pid))
    assert pipeline_processes(checkout.root) == []
    assert configs(checkout) == []
    running.wait()
    assert not stop_orphaned_pipeline(checkout.root)


def test_does_not_stop_other_pipelines(checkout: Checkout) -> None:
    """A pipeline started by hand, and that of another checkout."""
    tap = [checkout.root / ".venv/bin/tap-datasync", "{}"]
    by_hand = {name: value for name, value in os.environ.items() if name != PIPELINE_VARIABLE}
    elsewhere = {**by_hand, PIPELINE_VARIABLE: f"{checkout.root}-2"}
    others = [
        subprocess.Popen(tap, env=env, stdout=subprocess.PIPE) for env in (by_hand, elsewhere)
    ]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()
        assert not stop_orphaned_pipeline(checkout.root)
        assert [other.poll() for other in others] == [None, None]
    finally:
        for other in others:
            other.kill()
            other.communicate()


def test_lock_is_exclusive_and_released_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    program = (
        "import sys, pathlib\n"
        "from datasync_ingestion.meltano import exclusive_lock\n"
        "with exclusive_lock(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with (
            pytest.raises(
                BusyError, match=rf"\(process {holder.pid}\): wait for it, or x\."
            ) as error,
            exclusive_lock(path, ", or x"),
        ):
            pass
        assert error.value.exit_code == 75
        holder.kill()
        holder.wait()
    with exclusive_lock(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_locking_error_is_not_reported_as_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(meltano.fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="No locks available"), exclusive_lock(tmp_path / "run.lock"):
        pass


def test_stopping_ended_pipeline_returns_at_once(checkout: Checkout) -> None:
    started = time.monotonic()
    assert not meltano._stop(checkout.root, seconds=60)
    assert time.monotonic() - started < 30
