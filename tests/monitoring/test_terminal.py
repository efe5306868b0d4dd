"""The live bar at any width, log lines where there is no terminal, and `watch` with both."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Literal
from unittest.mock import Mock

import psycopg
import pyte
import pytest
from datasync_monitor import formatting, terminal
from datasync_monitor.database import DatabaseSettings
from datasync_monitor.progress import STALL_TIMEOUT
from datasync_monitor.terminal import LiveView, LogLines, ProgressView, is_live
from rich.console import Console

from tests.monitoring.monitoring_helpers import environment, write_load

if TYPE_CHECKING:
    from datasync_monitor.progress import Progress
    from datasync_sandbox.testing import Cluster

    from tests.monitoring.monitoring_helpers import TableWriter


INTERRUPT = Mock(side_effect=KeyboardInterrupt)


@pytest.fixture
def busy(writer: TableWriter, read) -> Progress:
    """A load of 10 pages that waits, with a restart, retries and a rejected event."""
    for number in range(10):
        if number == 5:
            writer.new_sync()
        writer.page(
            remaining=9 - number,
            reset=60 - number,
            rejected=int(number == 4),
            retries={"http_503": 2} if number == 3 else None,
        )
    writer.advance(30)
    return read()


def console_of(width: int, color_system: Literal["standard"] | None = "standard") -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=color_system)


def screen(console: Console) -> list[str]:
    """Return what a user sees on a terminal of the console's width."""
    screen = pyte.Screen(console.width, 24)
    pyte.Stream(screen).feed(console.file.getvalue().replace("\n", "\r\n"))
    return [line.rstrip() for line in screen.display if line.strip()]


def frame(progress: Progress, width: int, note: str | None = None) -> list[str]:
    console = console_of(width, color_system=None)
    console.print(ProgressView(progress, note))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 119, 120, 200])
def test_every_value_is_complete_at_any_usual_width(busy: Progress, width: int) -> None:
    values = [
        "50.0 %", "50,000 of 100,000 events", "1,250 events/s", "31 s left",
        "waiting 21 s for the rate limit", "10 pages", "cursor 1 min 29 s", "1 rejected",
        "1 restart", "2 retries", "checkpoint 30 s old",
    ]  # fmt: skip
    lines = frame(busy, width)
    assert all(len(line) <= width for line in lines)
    assert [value for value in values if not any(value in line for line in lines)] == []


def test_a_wide_terminal_needs_two_lines(busy: Progress) -> None:
    first, second = frame(busy, 200)
    assert first.startswith("waiting  ━━━")
    assert first.count("━") == first.count("─") == 20, "half done is half a bar"
    assert first.rstrip().endswith("31 s left")
    assert second.startswith("waiting 21 s for the rate limit · 10 pages")


def test_a_terminal_without_unicode_gets_ascii(busy: Progress) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(width=80, file=file, force_terminal=True, color_system=None)
    console.print(ProgressView(busy))
    file.flush()
    text = file.buffer.getvalue().decode("ascii")
    assert text.count("#") == text.count("-") == 20
    assert " | 10 pages" in text


@pytest.mark.parametrize("width", [1, 5, 12, 20, 40, 60])
def test_no_line_is_wider_than_the_terminal_and_a_long_note_is_wrapped(
    busy: Progress, width: int
) -> None:
    note = " ".join(f"word{number}" for number in range(40))
    lines = frame(busy, width, note=note)
    assert all(len(line) <= width for line in lines)
    assert "".join("".join(lines).split()).endswith(note.replace(" ", ""))


def test_an_expired_cursor_is_shown(writer: TableWriter, read) -> None:
    writer.page()
    writer.advance(150)
    assert any("cursor expired" in line for line in frame(read(), 100))


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_new_frame_replaces_the_previous_one_below_the_messages(
    writer: TableWriter, read, columns: int
) -> None:
    console = console_of(columns)
    with LiveView(console) as view:
        for number in range(3):
            writer.page()
            view.update(read())
            if number == 1:
                view.print("tap-datasync: the cursor expired")
    lines = screen(console)
    assert lines[0] == "tap-datasync: the cursor expired"
    assert [line.startswith("running ") for line in lines].index(True) == 1
    assert sum("running" in line for line in lines) == 1
    assert any("15,000 of 100,000 events" in line for line in lines), "it stays at the end"


def test_no_color_is_respected(busy: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = console_of(80)
    with LiveView(console) as view:
        view.update(busy)
    text = console.file.getvalue()
    assert "50,000 of 100,000 events" in text
    colours = [f"\x1b[{code}m" for code in (*range(30, 38), *range(90, 98))]
    assert not any(colour in text for colour in colours)


def test_pipes_and_dumb_terminals_are_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_live(io.StringIO())
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as stream:
        monkeypatch.setenv("TERM", "xterm")
        assert is_live(stream)
        monkeypatch.setenv("TERM", "dumb")
        assert not is_live(stream)
    os.close(master)


def test_a_log_line_has_the_same_values(busy: Progress) -> None:
    assert LogLines().next(busy) == (
        "2026-01-27T19:00:40Z waiting pages=10 events=50000 expected=100000 percent=50.0 "
        "rate=1250.0/s time_left=31s rate_limit=0/10 wait=21s cursor=89s rejected=1 restarts=1 "
        "retries=2 checkpoint_age=30s sync=22222222-2222-4222-8222-222222222222 "
        "| waiting 21 s for the rate limit"
    )


def test_log_lines_are_printed_for_changes_and_five_seconds_apart(
    writer: TableWriter, read
) -> None:
    lines = LogLines()
    writer.page()
    assert lines.next(read()), "the first page"
    writer.advance(10)
    assert lines.next(read()) is None, "no change"
    writer.page(took=1)
    assert lines.next(read()), "a new page, long after the last line"
    writer.page(took=1)
    assert lines.next(read()) is None, "a new page, one second later"
    writer.advance(4)
    assert "pages=3" in (lines.next(read()) or ""), "the same page, five seconds later"
    writer.advance(STALL_TIMEOUT.total_seconds() + 1)
    assert " stuck " in (lines.next(read()) or ""), "a change of the state"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (273_600, "3 d 4 h"),
        (-5, "0 s"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert formatting.duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.001, "0.1 %"), (0.29, "29.0 %"), (0.57, "57.0 %"), (0.99999, "99.9 %"), (1.0, "100.0 %")],
)
def test_percentages_are_rounded_down(fraction: float, text: str) -> None:
    assert formatting.percent(fraction) == text


def test_plurals() -> None:
    assert [formatting.plural(number, "restart") for number in (0, 1, 1000)] == [
        "0 restarts",
        "1 restart",
        "1,000 restarts",
    ]
    assert formatting.plural(2, "retry", "retries") == "2 retries"


def test_watch_without_a_terminal_prints_lines_and_an_error_once(
    cluster: Cluster,
    settings: DatabaseSettings,
    writer: TableWriter,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port, pauses = cluster.port, 0
    writer.now = datetime.now(timezone.utc) - timedelta(seconds=60)
    writer.total = 10_000

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 1:
            writer.page()
        elif pauses == 2:
            cluster.stop("immediate")
        elif pauses == 5:
            cluster.start(port)
            writer.connection = psycopg.connect(cluster.url, autocommit=True)
        elif pauses == 6:
            writer.page()
            writer.finish()

    terminal.watch(settings, stall_timeout=STALL_TIMEOUT, pause=pause)
    writer.connection.close()
    captured = capsys.readouterr()
    assert captured.err.count("Cannot connect") == captured.err.count("\n") == 1
    assert captured.err.endswith("Trying again.\n")
    first, *_, last = captured.out.splitlines()
    assert " idle " in first
    assert " finished pages=2 events=10000 expected=10000 percent=100.0 " in last


def test_the_live_view_shows_no_state_of_a_database_that_never_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "is_live", lambda _: True)
    unused = DatabaseSettings("127.0.0.1", port=1)
    with pytest.raises(KeyboardInterrupt):
        terminal.watch(unused, stall_timeout=STALL_TIMEOUT, pause=INTERRUPT)
    out = capsys.readouterr().out
    assert "Connection refused. Trying again." in " ".join(out.split())
    assert "idle" not in out


def test_watch_follows_a_load_after_the_end_of_a_scan(
    settings: DatabaseSettings, writer: TableWriter
) -> None:
    write_load(writer, "finished")
    with pytest.raises(KeyboardInterrupt):
        terminal.watch(settings, stall_timeout=STALL_TIMEOUT, pause=INTERRUPT, follow=True)


@pytest.mark.parametrize("columns", [60, 200])
def test_watch_on_a_terminal_shows_the_bar_and_ends_with_the_load(
    settings: DatabaseSettings, writer: TableWriter, columns: int
) -> None:
    write_load(writer, "running")
    screen = pyte.Screen(columns, 24)
    stream = pyte.ByteStream(screen)
    variables = {**os.environ, **environment(settings), "TERM": "xterm-256color"}
    # pytest-xdist sets it, and it hides the width of the terminal.
    variables.pop("COLUMNS", None)
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    watch = subprocess.Popen(
        [sys.executable, "-m", "datasync_monitor.cli", "watch", "--interval", "0.05"],
        env=variables,
        stdin=slave,
        stdout=slave,
    )
    os.close(slave)

    def shown(text: str) -> bool:
        """Read from the terminal until a text is shown, or the command has closed it."""
        with suppress(OSError):
            while not any(text in line for line in screen.display):
                stream.feed(os.read(master, 65536))
        return any(text in line for line in screen.display)

    try:
        for text in ("85,000 of 100,000 events", "85.0 %", "3 rejected", "1 restart"):
            assert shown(text), screen.display
        for number in range(3):
            writer.page(remaining=2 - number)
        writer.finish()
        assert shown("finished"), screen.display
        assert shown("loaded up to 2026-01-27 19:00:00 UTC"), screen.display
        assert not shown("never shown"), "the command has closed the terminal"
        assert watch.wait() == 0
    finally:
        watch.kill()
        watch.wait()
        os.close(master)
