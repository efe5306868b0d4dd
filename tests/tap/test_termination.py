"""The tap as a program that is told to end, or whose reader ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest
from tap_datasync.signals import SIGNALS
from tap_helpers import KEY, body_of, event, feeding, limits
from tap_runs import PAGES, Output

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 60.0
"""Seconds after which a tap that does not end is a failure, and not a test that hangs."""

BIG = body_of(*map(event, range(5000)), nextCursor="c5000", total=5001)


@contextmanager
def started(tmp_path: Path, url: str, prelude: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start the tap as a program; ``prelude`` runs before it."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"api_url": url, "api_key": KEY}))
    program = f"{prelude}\nfrom tap_datasync.__main__ import main; main()"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=tmp_path,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def in_time(process: subprocess.Popen[str]) -> Iterator[IO[str]]:
    """Read the tap's output, which ends after `TIMEOUT` seconds at the latest.

    Not with the timeout of `communicate`: that reads past what is in the stream's buffer.
    """
    assert process.stdout is not None
    too_late = threading.Timer(TIMEOUT, process.kill)
    too_late.start()
    try:
        yield process.stdout
    finally:
        too_late.cancel()


def read_until(process: subprocess.Popen[str], kind: str) -> str:
    read = ""
    with in_time(process) as output:
        while f'"type":"{kind}"' not in (line := output.readline()):
            assert line, "the tap ended early"
            read += line
    return read + line


def read_rest(process: subprocess.Popen[str]) -> str:
    with in_time(process) as output:
        rest = output.read()
    process.wait(TIMEOUT)
    return rest


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_in_the_middle_of_a_page_lets_it_be_completed(tmp_path, number):
    """The page is whole, its STATE follows, the last line is complete."""
    with feeding({None: BIG}) as server, started(tmp_path, server.url) as tap:
        output = read_until(tap, "RECORD")
        # A page is far larger than a pipe: the tap is writing, and waits for us.
        tap.send_signal(number)
        output += read_rest(tap)
    messages = Output(output)
    assert tap.returncode == 128 + number
    assert len(messages.rows()) == 5000
    assert messages.messages[-1]["type"] == "STATE"
    assert messages.bookmarks[-1]["cursor"] == "c5000"
    log = (tmp_path / "log").read_text()
    assert "Stopped by SIG" in log.splitlines()[-1]
    assert "Traceback" not in log


def test_a_signal_while_the_limit_is_waited_for_ends_at_once(tmp_path):
    """What was saved stays saved."""
    with (
        feeding({None: PAGES[None]}, limits(1, 0, 60)) as server,
        started(tmp_path, server.url) as tap,
    ):
        output = read_until(tap, "STATE")
        tap.send_signal(signal.SIGTERM)
        output += read_rest(tap)
    messages = Output(output)
    assert tap.returncode == 143
    assert messages.messages[-1]["type"] == "STATE"
    assert messages.bookmarks[-1]["cursor"] == "c5"
    assert len(server.requests) == 1


def test_more_signals_do_not_break_off_the_ending(tmp_path):
    """Somebody presses Ctrl-C again and again; a supervisor says SIGTERM as well."""
    with (
        feeding({None: PAGES[None]}, limits(1, 0, 60)) as server,
        started(tmp_path, server.url) as tap,
    ):
        read_until(tap, "STATE")
        with in_time(tap):
            while tap.poll() is None:
                tap.send_signal(signal.SIGTERM)
                tap.send_signal(signal.SIGINT)
        read_rest(tap)
    # Either may be delivered first.
    assert tap.returncode in {130, 143}
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_target_that_does_not_read_does_not_hold_the_tap(tmp_path):
    """The tap has a time, then it just ends."""
    prelude = "import tap_datasync.sdk_overrides as s; s.SHUTDOWN_SECONDS = 1"
    with feeding({None: BIG}) as server, started(tmp_path, server.url, prelude) as tap:
        read_until(tap, "RECORD")
        tap.send_signal(signal.SIGTERM)
        assert tap.wait(TIMEOUT) == 143


def test_a_target_that_ends_is_told_in_a_sentence(tmp_path):
    """No traceback, and not the interpreter's own exit code."""
    with feeding({None: BIG}) as server, started(tmp_path, server.url) as tap:
        read_until(tap, "RECORD")
        assert tap.stdout is not None
        tap.stdout.close()
        assert tap.wait(TIMEOUT) == 1
        tap.stdout = None
    log = (tmp_path / "log").read_text()
    assert log.splitlines()[-1].endswith("The target has stopped reading. Try again later.")
    assert "Traceback" not in log
    assert "Exception ignored" not in log


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("module", ["singer_sdk", "tap_datasync.streams"])
def test_a_signal_while_the_tap_is_still_being_imported_ends_it_with_one_message(
    tmp_path, number, module
):
    prelude = f"""
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Finder())
"""
    with started(tmp_path, "http://127.0.0.1:1/api/v1", prelude) as tap:
        assert read_rest(tap) == ""
    assert tap.returncode == 128 + number
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(f"Stopped by {number.name}.")


def test_a_hangup_is_ignored_under_nohup(tmp_path):
    prelude = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with (
        feeding({None: PAGES[None]}, limits(1, 0, 60)) as server,
        started(tmp_path, server.url, prelude) as tap,
    ):
        read_until(tap, "STATE")
        tap.send_signal(signal.SIGHUP)
        tap.send_signal(signal.SIGTERM)
        read_rest(tap)
    assert tap.returncode == 143


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_message(tmp_path):
    with feeding({None: BIG}) as server:
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"api_url": server.url, "api_key": KEY}))
        with Path("/dev/full").open("w") as full:
            ended = subprocess.run(
                [sys.executable, "-m", "tap_datasync", "--config", str(config)],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
                check=False,
            )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.endswith(
        "Cannot write to standard output: No space left on device. Try again later."
    )
