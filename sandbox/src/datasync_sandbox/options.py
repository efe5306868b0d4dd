"""The options of the API and of its feed, each declared once: for the API, commands and tests."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import Field, dataclass, fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from datasync_sandbox.api.faults import FAULTS
from datasync_sandbox.data.malformed import MALFORMED_KINDS
from datasync_sandbox.data.timestamps import to_millis

if TYPE_CHECKING:
    from collections.abc import Callable

BASE = "/api/v1"
"""Path of the API; a client's ``api_url`` ends in it."""

HOST = "127.0.0.1"
"""Address that the sandbox listens on by default."""

STATS_PATH = "/__sandbox__/stats"
"""Path of the request log, outside the API."""

DEFAULT_PORT = 8765
KEY_VARIABLE = "DATASYNC_SANDBOX_KEY"

WindowKind = Literal["sliding", "fixed", "aligned"]
LastPage = Literal["exact", "empty"]
Command = TypeVar("Command", bound="Callable[..., Any]")

_LATENCY = re.compile(r"(\d*\.?\d+)(?:-(\d*\.?\d+))?")
_LATE = re.compile(r"([01]|0?\.\d+):(\d*\.?\d+)")
_SHARE = click.FloatRange(0, 1)
_POSITIVE = click.FloatRange(0, min_open=True)
_COUNT = click.IntRange(1)


def _option(default: Any, kind: Any, help_text: str) -> Any:
    """Declare an option: default, type and help text."""
    return dataclasses.field(default=default, metadata={"type": kind, "help": help_text})


@dataclass(frozen=True)
class FeedOptions:
    """The options that describe the feed, in the notation of the command line.

    The help text of each option describes it. Its properties raise `ValueError`, with a message
    for the user, if the text of an option is wrong.
    """

    # 18 pages: a first load leaves two requests of its last window to the next.
    events: int = _option(90_000, click.IntRange(0, 1_000_000_000), "Events of the feed.")
    seed: int = _option(1, int, "Seed: the same seed gives the same feed.")
    # By default that of the newest event in the recordings of the API.
    newest: str = _option(
        "2026-01-27T19:20:12.369Z",
        str,
        "Timestamp of the newest event, ISO 8601, or `now`; the default never changes.",
    )
    arrivals: float = _option(0.0, click.FloatRange(0), "Events that arrive each second.")
    late: str = _option(
        "0:0", str, "SHARE:SECONDS: this share of arriving events is up to so many seconds old."
    )
    unsorted: float = _option(
        0.0, _SHARE, "Share of events whose timestamp is up to two hours from its place."
    )
    shards: int = _option(
        1,
        click.IntRange(1, 1000),
        "Parts of the feed that follow one another, each newest first.",
    )
    malformed: float = _option(0.0, _SHARE, "Share of malformed events; see --list-malformed.")
    malformed_kinds: str = _option(
        "", str, "Only these kinds of malformed events, separated by commas."
    )

    @property
    def newest_millis(self) -> int:
        """Timestamp of the newest event, in milliseconds since 1970."""
        try:
            return to_millis(datetime.now(timezone.utc) if self.newest == "now" else self.newest)
        except ValueError as error:
            message = f"newest is a timestamp in ISO 8601, or now, not {self.newest!r}"
            raise ValueError(message) from error

    @property
    def late_arrivals(self) -> tuple[float, float]:
        """Share of the arriving events that are late, and their greatest age in seconds."""
        late = _parse(_LATE, self.late, "late is SHARE:SECONDS, such as 0.05:600")
        return float(late[1]), float(late[2])

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of malformed events to draw from."""
        kinds = tuple(filter(None, map(str.strip, self.malformed_kinds.split(","))))
        for kind in kinds:
            if kind not in MALFORMED_KINDS:
                message = f"unknown kind of malformed event {kind!r}; --list-malformed lists all"
                raise ValueError(message)
        return kinds or tuple(MALFORMED_KINDS)

    def feed_name(self) -> str:
        """Return a name of the frozen events: equal for options that give the same ones."""
        frozen = [field for field in fields(FeedOptions) if field.name not in _NOT_FROZEN]
        return " ".join([f"--events={self.events}", *self._to_args(frozen)])

    def _to_args(self, options: list[Field[Any]]) -> list[str]:
        args = []
        for field in options:
            value: Any = getattr(self, field.name)
            if value != field.default:
                values = value if isinstance(value, tuple) else (value,)
                args += [f"--{field.name.replace('_', '-')}={each}" for each in values]
        return args


_NOT_FROZEN = ("events", "arrivals", "late")


@dataclass(frozen=True)
class ApiOptions(FeedOptions):
    """All options of ``datasync-sandbox api``, as `FeedOptions`."""

    port: int = _option(
        DEFAULT_PORT, click.IntRange(0, 65535), "Port to listen on; 0 picks a free one."
    )
    key: str = _option(
        "sandbox-key", str, f"API key; better given as {KEY_VARIABLE} in the environment."
    )
    limit: int = _option(10, _COUNT, "Requests per window.")
    window: float = _option(60.0, _POSITIVE, "Length of the window in seconds.")
    window_kind: WindowKind = _option(  # noqa: RUF009 - it returns a field
        "sliding",
        click.Choice(["sliding", "fixed", "aligned"]),
        "sliding: the last requests; fixed: from the first request after the previous window; "
        "aligned: from multiples of the window on the clock.",
    )
    # From the arrival of the request that issued it.
    cursor_lifetime: float = _option(120.0, _POSITIVE, "Seconds a cursor lives.")
    latency: str = _option(
        "0", str, "Seconds that a reply takes: 2, or a range such as 0-5 (drawn by the seed)."
    )
    max_page: int = _option(
        5000, _COUNT, "Events per page at most; a greater limit is capped without notice."
    )
    last_page: LastPage = _option(  # noqa: RUF009 - likewise
        "exact",
        click.Choice(["exact", "empty"]),
        "exact: the last page says hasMore: false; empty: an empty page follows it.",
    )
    key_lifetime: float = _option(
        0.0, click.FloatRange(0), "Seconds from its first use until the key expires; 0 is never."
    )
    key_requests: int = _option(
        0, click.IntRange(0), "Requests after which the key expires; 0 is never."
    )
    fault: tuple[str, ...] = ()

    @property
    def latency_range(self) -> tuple[float, float]:
        """Least and greatest time that a reply takes, in seconds."""
        match = _parse(_LATENCY, self.latency, "latency is seconds or a range, such as 2 or 0-5")
        return float(match[1]), float(match[2] or match[1])

    def to_args(self) -> list[str]:
        """Return the options as arguments of ``datasync-sandbox api``, without defaults.

        The key is left out: other users can see arguments.
        """
        return self._to_args([field for field in fields(self) if field.name != "key"])


def feed_options(command: Command) -> Command:
    """Add the options that describe the feed to a command."""
    return _add_options(command, FeedOptions)


def api_options(command: Command) -> Command:
    """Add all options of the API to a command."""
    command = _list_option("--list-faults", "List all faults.", list_faults)(command)
    command = _list_option(
        "--list-malformed", "List all kinds of malformed events.", _list_malformed
    )(command)
    command = click.option(
        "--fault",
        multiple=True,
        metavar="NAME[=VALUE]@PAGE[xCOUNT]",
        help="A fault, as listed by --list-faults; may be given several times.",
    )(command)
    return _add_options(command, ApiOptions)


def list_faults() -> str:
    """Describe every fault."""
    lines = [
        "Faults (--fault NAME[=VALUE]@PAGE[xCOUNT]):",
        "PAGE counts along a scan: the request without a cursor asks for page 1, and the",
        "cursor that page n issued asks for page n + 1. Asking again for a page keeps its",
        "number; a new scan counts from 1. COUNT requests for the page are hit (default 1,",
        "or `forever`) over the life of the server; then it is served unchanged. Several",
        "faults on one page hit one after the other. Every fault but `refused` counts",
        "against the rate limit.",
        "",
    ]
    for name, kind in FAULTS.items():
        default = "" if kind.default is None else f" [VALUE: {kind.default:g}]"
        lines.append(f"{name:<19}{kind.help}{default}")
    return "\n".join(lines)


def _list_malformed() -> str:
    notes = {True: " (valid all the same)", False: "", None: " (valid or not: both are right)"}
    return "\n".join(
        f"{name:<23}{kind.help}{notes[kind.valid]}" for name, kind in MALFORMED_KINDS.items()
    )


def _add_options(command: Command, options: type[FeedOptions]) -> Command:
    # In reverse, so that the help lists them in their order.
    for field in reversed(fields(options)):
        if field.metadata:
            command = click.option(
                f"--{field.name.replace('_', '-')}",
                type=field.metadata["type"],
                default=field.default,
                show_default=field.default not in {"", "0:0", 0},
                envvar=KEY_VARIABLE if field.name == "key" else None,
                help=field.metadata["help"],
            )(command)
    return command


def _list_option(
    name: str, help_text: str, text: Callable[[], str]
) -> Callable[[Command], Command]:
    def callback(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001
        if wanted:
            click.echo(text())
            context.exit()

    return click.option(
        name, is_flag=True, is_eager=True, expose_value=False, callback=callback, help=help_text
    )


def _parse(pattern: re.Pattern[str], text: str, expected: str) -> re.Match[str]:
    match = pattern.fullmatch(text.strip())
    if match is None:
        message = f"{expected}, not {text!r}"
        raise ValueError(message)
    return match
