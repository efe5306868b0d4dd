"""The live bar at any width, and log lines where there is no terminal."""

from __future__ import annotations

import io
import os
from datetime import timedelta
from typing import TYPE_CHECKING

import pyte
import pytest
from datasync_monitor import formatting
from datasync_monitor.progress import STALL_TIMEOUT
from datasync_monitor.terminal import LiveView, LogLines, ProgressView, is_live
from rich.console import Console

if TYPE_CHECKING:
    from datasync_monitor.progress import Progress
    from table_writer import TableWriter


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


def frame(progress: Progress, width: int, note: str | None = None) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(ProgressView(progress, note))
    return console.file.getvalue().splitlines()


VALUES = [
    "50.0 %", "50,000 of 100,000 events", "1,250 events/s", "31 s left",
    "waiting 21 s for the rate limit",
    "10 pages", "cursor 1 min 29 s", "1 rejected", "1 restart", "2 retries", "checkpoint 30 s old",
]  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 119, 120, 200])
def test_every_value_is_complete_at_any_usual_width(busy: Progress, width: int) -> None:
    lines = frame(busy, width)
    assert all(len(line) <= width for line in lines)
    assert [value for value in VALUES if not any(value in line for line in lines)] == []


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


@pytest.mark.parametrize("width", [1, 5, 12, 20, 40])
def test_no_line_is_wider_than_a_narrow_terminal(busy: Progress, width: int) -> None:
    assert all(len(line) <= width for line in frame(busy, width, note="starting again"))


def test_a_long_note_is_wrapped(busy: Progress) -> None:
    note = " ".join(f"word{number}" for number in range(40))
    lines = frame(busy, 60, note=note)
    assert all(len(line) <= 60 for line in lines)
    assert " ".join(line.strip() for line in lines).endswith(note)


def test_an_expired_cursor_is_shown(writer: TableWriter, read) -> None:
    writer.page()
    writer.advance(150)
    assert any("cursor expired" in line for line in frame(read(), 100))


class Screen:
    """A terminal of a given width, and what a user sees on it."""

    def __init__(self, columns: int) -> None:
        self.screen = pyte.Screen(columns, 24)
        self.stream = pyte.Stream(self.screen)
        self.console = Console(
            file=self,
            width=columns,
            force_terminal=True,
            color_system="standard",
            legacy_windows=False,
        )

    def write(self, text: str) -> int:
        self.stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    def flush(self) -> None:
        """Do nothing: every write is shown at once."""

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display if line.strip()]


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_new_frame_replaces_the_previous_one(writer: TableWriter, read, columns: int) -> None:
    screen = Screen(columns)
    with LiveView(screen.console) as view:
        for _ in range(3):
            writer.page()
            view.update(read())
    assert sum("running" in line for line in screen.lines) == 1
    assert any("15,000 of 100,000 events" in line for line in screen.lines), "it stays at the end"


def test_a_printed_message_stays_above_the_bar(busy: Progress) -> None:
    screen = Screen(80)
    with LiveView(screen.console) as view:
        view.update(busy)
        view.print("tap-datasync: the cursor expired")
        view.update(busy)
    assert screen.lines[0] == "tap-datasync: the cursor expired"
    assert [line.startswith("waiting  ") for line in screen.lines].index(True) == 1
    assert sum(line.startswith("waiting  ") for line in screen.lines) == 1


def test_before_the_first_reading_the_note_is_shown_alone(busy: Progress) -> None:
    screen = Screen(60)
    note = f"Cannot connect to the database: {'timeout ' * 8}expired. Trying again."
    with LiveView(screen.console) as view:
        view.update(None, note=note)
        view.update(None, note=note)
        assert " ".join(screen.lines) == note
        view.update(busy)
    assert screen.lines[0].startswith("waiting")


def test_no_color_is_respected(busy: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", width=80)
    with LiveView(console) as view:
        view.update(busy)
    assert "50,000 of 100,000 events" in file.getvalue()
    colours = [f"\x1b[{code}m" for code in (*range(30, 38), *range(90, 98))]
    assert not any(colour in file.getvalue() for colour in colours)


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
    assert formatting.log_line(busy) == (
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
