"""The progress on a terminal: one live bar with what belongs to it, at any width."""

from __future__ import annotations

import os
from math import ceil
from typing import IO, TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.text import Text

from datasync_monitor import words
from datasync_monitor.health import State

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from rich.console import ConsoleOptions, RenderResult

    from datasync_monitor.progress import Progress

_STYLES = {
    State.IDLE: "dim",
    State.RUNNING: "cyan",
    State.WAITING: "yellow",
    State.STUCK: "bold red",
    State.FINISHED: "green",
}
_BAR_AT_MOST = 60
_BAR_AT_LEAST = 8
_ONE_LINE_FROM = 120
_ALERT_CURSOR_S = 30


def is_live(stream: IO[Any]) -> bool:
    """Tell whether a frame can be painted over on this stream."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown", ""}


class ProgressView:
    """A rich renderable of one `Progress`.

    Wide terminals get the bar and the numbers in one line and the rest below; narrow ones get the
    same facts in more lines, broken between the facts and never inside them.
    """

    def __init__(self, progress: Progress, note: str | None = None) -> None:
        self.progress = progress
        self.note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the facts out for the console's width."""
        width = options.max_width
        ascii_only = options.ascii_only
        style = _STYLES[self.progress.state]
        numbers = self._numbers()
        beside = sum(cell_len(text.plain) + 3 for text in numbers) if width >= _ONE_LINE_FROM else 0
        head = self._bar(width, beside, style, ascii_only=ascii_only)
        lines: list[Text] = []
        if beside:
            lines.append(Text("   ").join([head, *numbers]))
        else:
            lines += [head, *_flow(numbers, width, ascii_only=ascii_only)]
        lines += _flow(self._details(style), width, ascii_only=ascii_only)
        for line in lines:
            line.truncate(width, overflow="ellipsis" if not ascii_only else "crop")
            line.no_wrap = True
        if self.note:
            lines += _noted(self.note).wrap(console, width)
        yield Group(*lines)

    def _bar(self, width: int, beside: int, style: str, *, ascii_only: bool) -> Text:
        progress = self.progress
        head = Text().append(f"{progress.state!s:<9}", style=style)
        tail = "" if progress.fraction is None else f" {words.percent(progress.fraction):>7}"
        room = min(_BAR_AT_MOST, width - head.cell_len - len(tail) - beside - 1)
        if room >= _BAR_AT_LEAST:
            filled, empty = ("#", "-") if ascii_only else ("━", "─")
            done = int(room * (progress.fraction or 0.0))
            head.append(filled * done, style=style)
            head.append(empty * (room - done), style="dim")
        return head.append(tail, style="bold")

    def _numbers(self) -> list[Text]:
        progress = self.progress
        facts = [Text(progress.amount)]
        if progress.rate is not None:
            facts.append(Text(words.per_second(progress.rate)))
        if progress.eta is not None:
            facts.append(Text(f"{words.duration(progress.eta)} left", style="bold"))
        return facts

    def _details(self, style: str) -> Iterable[Text]:
        progress = self.progress
        yield Text(progress.activity, style=style)
        if progress.pages:
            yield Text(words.plural(progress.pages, "page"))
        life = progress.cursor_life
        if life is not None:
            alarm = life.total_seconds() < _ALERT_CURSOR_S
            said = f"cursor {words.duration(life)}" if life else "cursor expired"
            yield Text(said, style="red" if alarm else "")
        if progress.pages:
            yield Text(
                f"{words.count(progress.rejected)} rejected",
                style="yellow" if progress.rejected else "",
            )
            yield Text(
                words.plural(progress.restarts, "restart"),
                style="yellow" if progress.restarts else "",
            )
        if progress.retries:
            yield Text(words.plural(sum(progress.retries.values()), "retry", "retries"))
        age = progress.checkpoint_age
        if age is not None and progress.state is not State.FINISHED:
            yield Text(f"checkpoint {words.duration(age)} old")


def _flow(facts: Iterable[Text], width: int, *, ascii_only: bool) -> list[Text]:
    """Join facts into lines of at most `width` cells, broken between facts."""
    between = " | " if ascii_only else " · "
    lines: list[Text] = []
    for fact in facts:
        if lines and lines[-1].cell_len + len(between) + fact.cell_len <= width:
            lines[-1].append(between, style="dim").append_text(fact)
        else:
            lines.append(Text().append_text(fact))
    return lines


def _noted(note: str) -> Text:
    return Text(note, style="magenta")


class LiveView:
    """Paints the newest `Progress` over the last one, and leaves the final frame on the screen.

    rich's own `Live` remembers how many lines it wrote, not how wide they were: when the window
    gets narrower, the terminal wraps those lines and the old frame stays behind in pieces. This
    one counts again at the width of the moment. Everything is done by the caller's thread; nothing
    but the cursor is hidden, no signal is taken.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._painted: list[int] = []
        self._view: ProgressView | Text | None = None

    def __enter__(self) -> LiveView:  # noqa: PYI034 - Self is not in the typing of Python 3.10
        self.console.show_cursor(show=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.console.show_cursor(show=True)

    def update(self, progress: Progress | None, note: str | None = None) -> None:
        """Show this progress and the caller's note below it, or the note where none is known."""
        self._view = ProgressView(progress, note) if progress else _noted(note or "")
        self._paint(self._view, self._erasing())

    def say(self, message: str) -> None:
        """Put a line above the bar, where it stays."""
        before = self._erasing()
        self._painted = []
        self._write(before)
        self.console.print(Text(message))
        if self._view is not None:
            self._paint(self._view, "")

    def _paint(self, view: ProgressView | Text, before: str) -> None:
        # One column is left free: a line that fills the last one wraps on some terminals.
        width = max(1, self.console.width - 1)
        options = self.console.options.update(width=width, max_width=width)
        lines = self.console.render_lines(view, options, pad=False)
        self._painted = [sum(segment.cell_length for segment in line) for line in lines]
        with self.console.capture() as frame:
            for line in lines:
                self.console.print(
                    *(Text(segment.text, segment.style or "") for segment in line), sep=""
                )
        self._write(before + frame.get())

    def _erasing(self) -> str:
        """The codes that take back the frame as it lies on the screen now, wrapped or not."""
        width = max(1, self.console.width)
        rows = sum(max(1, ceil(cells / width)) for cells in self._painted)
        return f"\r\x1b[{rows}A\x1b[J" if rows else ""

    def _write(self, text: str) -> None:
        self.console.file.write(text)
        self.console.file.flush()
