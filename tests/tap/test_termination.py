"""The tap as a program that is told to end, or whose reader ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest
from tap_datasync.signals import SIGNALS

from tests.tap.tap_helpers import KEY, body_of, event, feeding, limits
from tests.tap.tap_runs import PAGES, Output

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = body_of(*map(event, range(5000)), nextCursor="c5000", total=5001)


@contextmanager
def started(
    tmp_path: Path, url: str, prelude: str = "", stdout: IO[str] | int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """Start the tap as a program; ``prelude`` runs before it."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"api_url": url, "api_key": KEY}))
    program = f"{prelude}\nimport runpy; runpy.run_module('tap_datasync', run_name='__main__')"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--config", str(config)],
            stdout=stdout,
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


def read_until(process: subprocess.Popen[str], kind: str) -> str:
    assert process.stdout is not None
    read = ""
    while f'"type":"{kind}"' not in (line := process.stdout.readline()):
        assert line, "the tap ended early"
        read += line
    return read + line


def read_rest(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    # Not `communicate`: that reads past what is in the stream's buffer.
    rest = process.stdout.read()
    process.wait()
    return rest


@contextmanager
def waiting(tmp_path: Path, prelude: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start the tap; yields it with its output while it waits for the rate limit."""
    with (
        feeding({None: PAGES[None]}, **limits(1, 0, 60)) as server,
        started(tmp_path, server.url, prelude) as tap,
    ):
        yield tap, read_until(tap, "STATE")
        assert len(server.requests) == 1


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
    with waiting(tmp_path) as (tap, output):
        tap.send_signal(signal.SIGTERM)
        messages = Output(output + read_rest(tap))
    assert tap.returncode == 143
    assert messages.messages[-1]["type"] == "STATE"
    assert messages.bookmarks[-1]["cursor"] == "c5"


def test_more_signals_do_not_break_off_the_ending(tmp_path):
    """Ctrl-C is pressed again and again; a supervisor sends SIGTERM as well."""
    with waiting(tmp_path) as (tap, _):
        while tap.poll() is None:
            tap.send_signal(signal.SIGTERM)
            tap.send_signal(signal.SIGINT)
    # Either may be delivered first.
    assert tap.returncode in {130, 143}
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_target_that_does_not_read_does_not_hold_the_tap(tmp_path):
    prelude = "import tap_datasync.sdk_overrides as s; s.SHUTDOWN_SECONDS = 1"
    with feeding({None: BIG}) as server, started(tmp_path, server.url, prelude) as tap:
        read_until(tap, "RECORD")
        tap.send_signal(signal.SIGTERM)
        assert tap.wait() == 143


def test_a_target_that_ends_is_reported_in_one_message(tmp_path):
    with feeding({None: BIG}) as server, started(tmp_path, server.url) as tap:
        read_until(tap, "RECORD")
        assert tap.stdout is not None
        tap.stdout.close()
        assert tap.wait() == 1
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
    with waiting(tmp_path, prelude) as (tap, _):
        tap.send_signal(signal.SIGHUP)
        tap.send_signal(signal.SIGTERM)
        read_rest(tap)
    assert tap.returncode == 143


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_message(tmp_path):
    with (
        feeding({None: BIG}) as server,
        Path("/dev/full").open("w") as full,
        started(tmp_path, server.url, stdout=full) as tap,
    ):
        assert tap.wait() == 1
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    message = "Cannot write to standard output: No space left on device. Try again later."
    assert log.splitlines()[-1].endswith(message)
