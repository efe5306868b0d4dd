"""The bar and the lines say the right numbers, at any width and on any kind of output."""

from __future__ import annotations

import io
import os
from datetime import timedelta
from typing import TYPE_CHECKING

import pyte
import pytest
from datasync_monitor import words
from datasync_monitor.database import connect
from datasync_monitor.health import PATIENCE
from datasync_monitor.plain import PlainLines, line
from datasync_monitor.progress import Progress, State, read_progress
from datasync_monitor.terminal import LiveView, ProgressView, is_live
from rich.console import Console

if TYPE_CHECKING:
    from datasync_monitor.database import Settings
    from scribe import Scribe


@pytest.fixture
def read(settings: Settings, scribe: Scribe):
    with connect(settings) as connection:
        yield lambda: read_progress(connection, clock=scribe.clock)


@pytest.fixture
def busy(scribe: Scribe, read) -> Progress:
    """A load with something of everything: 10 pages, waiting, one restart, faults."""
    for number in range(10):
        if number == 5:
            scribe.new_run("22222222-2222-4222-8222-222222222222")
        scribe.page(
            remaining=9 - number,
            reset=60 - number,
            rejected=int(number == 4),
            retries={"503": 2} if number == 3 else None,
        )
    scribe.later(30)
    return read()


def frame(progress: Progress, width: int, note: str | None = None) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(ProgressView(progress, note))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


FACTS = [
    "50.0 %", "50,000 of 100,000 events", "1,250 events/s", "30 s left",
    "waiting 21 s for the API's limit",
    "10 pages", "cursor 1 min 29 s", "1 rejected", "1 restart", "2 retries", "checkpoint 30 s old",
]  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 119, 120, 200])
def test_every_fact_is_there_whole_at_any_usual_width(busy: Progress, width: int) -> None:
    lines = frame(busy, width)
    assert all(len(text) <= width for text in lines)
    missing = [fact for fact in FACTS if not any(fact in text for text in lines)]
    assert missing == []


def test_a_wide_terminal_has_the_bar_and_the_numbers_in_one_line(busy: Progress) -> None:
    first, second = frame(busy, 200)
    assert first.startswith("waiting  ━━━")
    assert first.rstrip().endswith("30 s left")
    assert second.startswith("waiting 21 s for the API's limit · 10 pages")


def test_half_done_is_half_a_bar(busy: Progress) -> None:
    assert frame(busy, 200)[0].count("━") == frame(busy, 200)[0].count("─") == 30


@pytest.mark.parametrize("width", [1, 5, 12, 20, 40])
def test_a_terminal_too_narrow_for_a_bar_is_not_overrun(busy: Progress, width: int) -> None:
    assert all(len(text) <= width for text in frame(busy, width, note="started again"))


def test_a_note_of_the_caller_is_the_last_line(busy: Progress) -> None:
    assert frame(busy, 80, note="starting again in 4 s")[-1] == "starting again in 4 s"


def test_a_long_note_is_wrapped_and_not_cut(busy: Progress) -> None:
    note = " ".join(f"word{number}" for number in range(40))
    lines = frame(busy, 60, note=note)
    assert all(len(text) <= 60 for text in lines)
    assert " ".join(text.strip() for text in lines).endswith(note)


def test_before_the_first_contact_there_is_the_note_alone(busy: Progress) -> None:
    """Nobody knows then that nothing is loaded yet."""
    screen = Screen(60)
    view = LiveView(screen.console)
    note = f"No database events at db.test:5432: {'timeout ' * 8}expired. Trying again."
    view.update(None, note=note)
    view.update(None, note=note)
    assert " ".join(screen.lines) == note
    view.update(busy)
    assert screen.lines[0].startswith("waiting")


def test_an_expired_cursor_is_said(scribe: Scribe, read) -> None:
    scribe.page()
    scribe.later(150)
    assert any("cursor expired" in text for text in frame(read(), 100))


class Screen:
    """A terminal of a size, as a person sees it."""

    def __init__(self, columns: int, rows: int = 24) -> None:
        self.screen = pyte.Screen(columns, rows)
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
        """Nothing is held back."""

    def resize(self, columns: int) -> None:
        self.screen.resize(24, columns)
        self.console.size = (columns, 24)

    @property
    def lines(self) -> list[str]:
        return [text.rstrip() for text in self.screen.display if text.strip()]


def test_a_new_frame_replaces_the_old_one(scribe: Scribe, read) -> None:
    screen = Screen(80)
    view = LiveView(screen.console)
    scribe.page()
    view.update(read())
    scribe.page()
    view.update(read())
    assert sum("running" in text for text in screen.lines) == 1
    assert any("10,000 of 100,000 events" in text for text in screen.lines)
    assert not any(" 5,000 of" in text for text in screen.lines)


def test_what_is_said_stays_above_the_bar(busy: Progress) -> None:
    screen = Screen(80)
    view = LiveView(screen.console)
    view.update(busy)
    view.say("the tap failed: starting it again")
    view.update(busy)
    assert screen.lines[0] == "the tap failed: starting it again"
    assert screen.lines[1].startswith("waiting")
    assert sum(text.startswith("waiting  ") for text in screen.lines) == 1


@pytest.mark.parametrize(("before", "after"), [(200, 60), (60, 200)])
def test_after_a_resize_the_frame_fits_the_new_width(
    busy: Progress, before: int, after: int
) -> None:
    screen = Screen(before)
    view = LiveView(screen.console)
    view.update(busy)
    screen.resize(after)
    view.update(busy)
    newest = screen.lines[-len(frame(busy, after - 1)) :]
    assert newest == [text.rstrip() for text in frame(busy, after - 1)]


def test_a_frame_that_the_terminal_wrapped_is_taken_back_whole(busy: Progress) -> None:
    """At 60 columns the old lines of 150 take three rows each; that many are erased."""
    screen = Screen(200)
    view = LiveView(screen.console)
    view.update(busy)
    widths = [len(text.rstrip()) for text in frame(busy, 199)]
    screen.resize(60)
    written: list[str] = []
    screen.write = lambda text: written.append(text) or len(text)
    view.update(busy)
    rows = sum(-(-width // 60) for width in widths)
    assert rows > len(widths)
    assert "".join(written).startswith(f"\r\x1b[{rows}A\x1b[J")


def test_no_color_is_obeyed(busy: Progress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=80)
    LiveView(console).update(busy)
    assert "50,000 of 100,000 events" in out.getvalue()
    # Bold and dim are no colours; 30 to 37 and 90 to 97 would be.
    assert not any(f"\x1b[{code}m" in out.getvalue() for code in (*range(30, 38), *range(90, 98)))


def test_a_pipe_and_a_dumb_terminal_are_not_painted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_live(io.StringIO())
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as stream:
        monkeypatch.setenv("TERM", "xterm")
        assert is_live(stream)
        monkeypatch.setenv("TERM", "dumb")
        assert not is_live(stream)
    os.close(master)


def test_a_line_holds_the_same_facts_for_grep(busy: Progress) -> None:
    assert line(busy) == (
        "2026-01-27T19:00:40Z waiting page=10 events=50000 total=100000 percent=50.0 "
        "rate=1250.0/s eta=30s budget=0/10 wait=21s cursor=89s rejected=1 restarts=1 retries=2 "
        "checkpoint_age=30s run=22222222-2222-4222-8222-222222222222 "
        "| waiting 21 s for the API's limit"
    )


def test_lines_come_for_news_only_and_five_seconds_apart(scribe: Scribe, read) -> None:
    lines = PlainLines()
    scribe.page()
    assert lines.next(read()), "the first page"
    scribe.later(10)
    assert lines.next(read()) is None, "nothing new"
    scribe.page(took=1)
    assert lines.next(read()), "a new page, long after the last line"
    scribe.page(took=1)
    assert lines.next(read()) is None, "a new page, but only a second later"
    scribe.later(4)
    assert "page=3" in (lines.next(read()) or ""), "it is said when its time has come"
    assert "page=3" in lines.last(read()), "the closing line is said always"


def test_a_change_of_state_is_news(scribe: Scribe, read) -> None:
    lines = PlainLines()
    scribe.page()
    lines.next(read())
    scribe.later(PATIENCE.total_seconds() + 1)
    assert " stuck " in (lines.next(read()) or "")


@pytest.mark.parametrize(
    ("seconds", "said"),
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
def test_durations_are_said_in_two_units_at_most(seconds: float, said: str) -> None:
    assert words.duration(timedelta(seconds=seconds)) == said


def test_a_hundred_percent_is_said_of_the_whole_alone() -> None:
    assert words.percent(0.99999) == "99.9 %"
    assert words.percent(1.0) == "100.0 %"
    assert [words.percent(n / 1000) for n in (1, 290, 570, 999)] == [
        "0.1 %",
        "29.0 %",
        "57.0 %",
        "99.9 %",
    ]


def test_one_is_not_many() -> None:
    assert [words.plural(number, "restart") for number in (0, 1, 1000)] == [
        "0 restarts",
        "1 restart",
        "1,000 restarts",
    ]
    assert [words.plural(number, "retry", "retries") for number in (1, 2)] == [
        "1 retry",
        "2 retries",
    ]


def test_the_states_are_words() -> None:
    assert [str(state) for state in State] == ["idle", "running", "waiting", "stuck", "finished"]
