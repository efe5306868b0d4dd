"""The options of the API, declared once for the command line, the background and tests."""

from __future__ import annotations

import re
from dataclasses import Field, dataclass, fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

import click

from datasync_sandbox.api.config import KEY_VARIABLE, ApiConfig, option, parse
from datasync_sandbox.api.faults import FAULTS
from datasync_sandbox.api.model import ApiModel
from datasync_sandbox.data.events import FeedDefects
from datasync_sandbox.data.feed import NEWEST, ArrivalRate, Feed
from datasync_sandbox.data.malformed import MALFORMED_KINDS
from datasync_sandbox.data.timestamps import to_millis

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_PORT = 8765

_LATE = re.compile(r"([01]|0?\.\d+):(\d*\.?\d+)")
_SHARE = click.FloatRange(0, 1)

Command = TypeVar("Command", bound="Callable[..., Any]")


@dataclass(frozen=True)
class FeedOptions:
    """The options that describe the feed, in the notation of the command line."""

    # 18 pages: a first load leaves two requests of its last window to the next.
    events: int = option(90_000, click.IntRange(0, 1_000_000_000), "Events of the feed.")
    seed: int = option(1, int, "Seed: the same seed gives the same feed.")
    newest: str = option(
        NEWEST,
        str,
        "Timestamp of the newest event, ISO 8601, or `now`; the default never changes.",
    )
    arrivals: float = option(0.0, click.FloatRange(0), "Events that arrive each second.")
    late: str = option(
        "0:0", str, "SHARE:SECONDS: this share of arriving events is up to so many seconds old."
    )
    unsorted: float = option(
        0.0, _SHARE, "Share of events whose timestamp is up to two hours from its place."
    )
    shards: int = option(
        1,
        click.IntRange(1, 1000),
        "Parts of the feed that follow one another, each newest first.",
    )
    malformed: float = option(0.0, _SHARE, "Share of malformed events; see --list-malformed.")
    malformed_kinds: str = option(
        "", str, "Only these kinds of malformed events, separated by commas."
    )

    def make_feed(self) -> Feed:
        """Create the feed.

        Raises:
            ValueError: If an option is wrong; the message is for the user.
        """
        late = parse(_LATE, self.late, "late is SHARE:SECONDS, such as 0.05:600")
        kinds = tuple(filter(None, map(str.strip, self.malformed_kinds.split(","))))
        for kind in kinds:
            if kind not in MALFORMED_KINDS:
                message = f"unknown kind of malformed event {kind!r}; --list-malformed lists all"
                raise ValueError(message)
        return Feed(
            self.events,
            seed=self.seed,
            newest=_newest(self.newest),
            arrival_rate=ArrivalRate(self.arrivals, float(late[1]), float(late[2])),
            defects=FeedDefects(
                unsorted=self.unsorted,
                malformed=self.malformed,
                kinds=kinds or tuple(MALFORMED_KINDS),
                shards=self.shards,
            ),
        )

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
class ApiOptions(ApiConfig, FeedOptions):
    """All options of ``datasync-sandbox api``, in the notation of the command line.

    The help text of each option describes it.
    """

    port: int = option(
        DEFAULT_PORT, click.IntRange(0, 65535), "Port to listen on; 0 picks a free one."
    )
    fault: tuple[str, ...] = ()

    def make_model(self, started_at: float | None = None) -> ApiModel:
        """Create the API; ``started_at`` is that of `ApiModel`.

        Raises:
            ValueError: If an option is wrong; the message is for the user.
        """
        return ApiModel(self.make_feed(), self, self.fault, started_at=started_at)

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


def _newest(text: str) -> int:
    """Return milliseconds since 1970 of a timestamp, or of now."""
    try:
        return to_millis(datetime.now(timezone.utc) if text == "now" else text)
    except ValueError as error:
        message = f"newest is a timestamp in ISO 8601, or now, not {text!r}"
        raise ValueError(message) from error
