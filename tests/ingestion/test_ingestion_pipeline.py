"""Meltano as a child: followed, stopped in order, and cleared away when it was killed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from datasync_ingestion import lock, pipeline, processes
from datasync_ingestion.errors import BusyError
from datasync_ingestion.lock import only_one
from datasync_ingestion.logs import parse
from datasync_ingestion.pipeline import Pipeline, clear_the_way
from ingestion_helpers import is_alive, until

if TYPE_CHECKING:
    from pathlib import Path

    from ingestion_helpers import Checkout


def start(checkout: Checkout) -> Pipeline:
    env = {**os.environ, "MELTANO_PROJECT_ROOT": str(checkout.root), "API_KEY": "k"}
    return Pipeline(checkout.root, env)


def lines(running: Pipeline) -> list[str]:
    """All that it logs, to the end."""
    said = []
    while (text := running.next_line(0.1)) is not None:
        if text:
            said.append(parse(text).text)
    return said


def until_the_tap_runs(running: Pipeline) -> psutil.Process:
    until(lambda: "Page 1" in (running.next_line(0.1) or ""))
    (tap,) = processes.taps(running.session)
    return tap


def configs(checkout: Checkout) -> list[Path]:
    return list((checkout.root / ".meltano" / "run").glob("*/*.config.json"))


def record(checkout: Checkout) -> Path:
    return checkout.root / ".run" / "pipeline.json"


def test_the_log_comes_line_by_line_and_ends_with_the_process(checkout: Checkout) -> None:
    checkout.play({"log": [{"event": "one"}, {"event": "two"}], "exit": 3})
    running = start(checkout)
    assert lines(running) == ["Running job", "one", "two"]
    assert running.wait() == 3
    (asked,) = checkout.asked("run")
    assert asked["words"] == [
        *("--log-format=json", "--environment=dev", "run", "--no-install", "--force"),
        *("tap-datasync", "target-postgres"),
    ]


def test_it_has_a_session_of_its_own(checkout: Checkout) -> None:
    """So that Ctrl-C in the terminal does not reach it before we have stopped it in order."""
    checkout.play({})
    running = start(checkout)
    running.wait()
    assert checkout.asked("run")[0]["session"] == running.session != os.getsid(0)


def test_the_tap_is_stopped_first_so_that_meltano_saves_and_ends_by_itself(
    checkout: Checkout,
) -> None:
    checkout.play({"tap": {"seconds": 60}})
    running = start(checkout)
    until_the_tap_runs(running)
    running.stop()
    assert processes.members(running.session) == []
    said = [parse(text).facts for text in iter(lambda: running.next_line(0.1), None) if text]
    assert said[-1]["exit_codes"] == {"extractors": 143}


def test_a_tap_that_is_deaf_is_killed_in_time(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "TAP_GRACE_S", 0.3)
    monkeypatch.setattr(pipeline, "MELTANO_GRACE_S", 0.3)
    monkeypatch.setattr(pipeline, "LEFTOVER_GRACE_S", 0.3)
    checkout.play({"tap": {"seconds": 60, "deaf": True}})
    running = start(checkout)
    tap = until_the_tap_runs(running)
    running.stop()
    assert not is_alive(tap.pid)
    assert processes.members(running.session) == []


def test_the_graces_together_leave_time_within_ten_seconds() -> None:
    graces = (pipeline.TAP_GRACE_S, pipeline.MELTANO_GRACE_S, pipeline.LEFTOVER_GRACE_S)
    assert sum(graces) < 8


def test_a_pipeline_without_a_tap_yet_is_stopped_too(checkout: Checkout) -> None:
    checkout.play({"tap": {"seconds": 60}})
    running = start(checkout)
    running.stop()
    assert processes.members(running.session) == []


def test_what_a_killed_meltano_leaves_behind_is_ended(checkout: Checkout) -> None:
    """No old tap may go on writing beside a new one, and no file may keep the key."""
    checkout.play({"tap": {"seconds": 60}})
    running = start(checkout)
    tap = until_the_tap_runs(running)
    assert configs(checkout)
    os.kill(running.session, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert not is_alive(tap.pid)
    assert configs(checkout) == []


def test_the_pipeline_of_a_killed_supervisor_is_ended(checkout: Checkout) -> None:
    checkout.play({"tap": {"seconds": 60}})
    running = start(checkout)
    tap = until_the_tap_runs(running)
    assert clear_the_way(checkout.root)
    assert not is_alive(tap.pid)
    assert processes.members(running.session) == []
    assert configs(checkout) == []
    running.wait()
    assert not clear_the_way(checkout.root)


def test_the_tap_alone_is_ended_when_meltano_was_killed_too(checkout: Checkout) -> None:
    """The session has lost its leader then; its number still tells whose it is."""
    checkout.play({"tap": {"seconds": 60}})
    running = start(checkout)
    tap = until_the_tap_runs(running)
    os.kill(running.session, signal.SIGKILL)
    until(lambda: not is_alive(running.session))
    assert is_alive(tap.pid)
    assert clear_the_way(checkout.root)
    assert not is_alive(tap.pid)
    running.wait()


def test_what_is_started_carries_the_mark_that_is_noted(checkout: Checkout) -> None:
    checkout.play({"tap": {"seconds": 60}})
    running = start(checkout)
    tap = until_the_tap_runs(running)
    noted = json.loads(record(checkout).read_text())
    assert noted["session"] == running.session
    assert tap.environ()[pipeline.MARK] == noted["mark"]
    running.stop()
    assert not record(checkout).exists()


def test_what_cannot_be_noted_is_not_left_running(checkout: Checkout) -> None:
    """A supervisor that comes later would not find it."""
    before = psutil.Process().children(recursive=True)
    record(checkout).mkdir()
    checkout.play({"tap": {"seconds": 60}})
    with pytest.raises(OSError, match=r"pipeline\.json"):
        start(checkout)
    assert psutil.Process().children(recursive=True) == before


@pytest.mark.parametrize("leader", ["alive", "gone"])
def test_a_session_of_somebody_else_with_the_same_number_is_left_alone(
    checkout: Checkout, leader: str
) -> None:
    """The number was given out again, as it is after a restart of the machine."""
    program = "import sys; print('here', flush=True); input()"
    if leader == "gone":
        program = (
            "import os, sys\nif os.fork(): os._exit(0)\nprint(os.getpid(), flush=True); input()"
        )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as other:
        assert other.stdout is not None
        word = other.stdout.readline().strip()
        pid = int(word) if leader == "gone" else other.pid
        if leader == "gone":
            other.wait()
        assert [process.pid for process in processes.members(other.pid)] == [pid]
        record(checkout).write_text(json.dumps({"session": other.pid, "mark": "ours"}))
        assert not clear_the_way(checkout.root)
        assert is_alive(pid)
        assert not record(checkout).exists()
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "note", ["", "{", "{}", "[]", '{"session": "x"}', '{"session": 1, "created": 1.0}']
)
def test_a_broken_note_is_no_obstacle(checkout: Checkout, note: str) -> None:
    path = record(checkout)
    path.write_text(note)
    assert not clear_the_way(checkout.root)
    assert not path.exists()


def test_a_pipeline_started_by_hand_is_left_alone_and_said(checkout: Checkout) -> None:
    tap = checkout.root / ".venv/bin/tap-datasync"
    with subprocess.Popen([tap, json.dumps({})], stdout=subprocess.PIPE) as by_hand:
        assert by_hand.stdout is not None
        by_hand.stdout.readline()
        with pytest.raises(BusyError, match=f"started by hand is running .process {by_hand.pid}"):
            clear_the_way(checkout.root)
        assert by_hand.poll() is None
        by_hand.kill()


def test_the_bulk_lane_is_a_setting_of_the_tap(tmp_path: Path) -> None:
    config = json.loads(pipeline.batch_config(tmp_path / "a b"))
    assert config["encoding"] == {"format": "jsonl", "compression": "none"}
    assert config["storage"]["root"] == f"file://{tmp_path}/a%20b"


def test_one_run_at_a_time_and_the_lock_goes_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "run.lock"
    program = (
        "import sys, pathlib\n"
        "from datasync_ingestion.lock import only_one\n"
        "with only_one(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        with pytest.raises(BusyError, match=f"process {owner.pid}") as caught, only_one(path):
            pass
        assert caught.value.exit_code == 75
        owner.kill()
        owner.wait()
    with only_one(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_lock_that_cannot_be_had_at_all_is_not_taken_for_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with pytest.raises(OSError, match="No locks available"), only_one(tmp_path / "run.lock"):
        pass


def test_ending_a_session_that_has_ended_takes_no_time(checkout: Checkout) -> None:
    checkout.play({})
    running = start(checkout)
    running.wait()
    started = time.monotonic()
    processes.end(running.session, grace=60)
    assert time.monotonic() - started < 30
