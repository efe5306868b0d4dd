"""The options of the API on the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from datasync_sandbox import dirty
from datasync_sandbox.background import KEY_VARIABLE
from datasync_sandbox.catalogue import FAULTS
from datasync_sandbox.options import ApiOptions

Command = TypeVar("Command", bound=Callable[..., Any])

_SHARE = click.FloatRange(0, 1)
_ABOVE_0 = click.FloatRange(0, min_open=True)
_FROM_0 = click.FloatRange(0)
_DEFAULTS = {field.name: field.default for field in fields(ApiOptions)}
_FITS = {True: " (fits after all)", False: "", None: " (either way is right)"}
_GROUPS = {
    "feed": [
        ("events", click.IntRange(0, 1_000_000_000), "Events of the feed."),
        ("seed", int, "Seed: the same seed gives the same feed."),
        (
            "newest",
            str,
            "Timestamp of the newest event, ISO 8601, or `now`; the default is the same every day.",
        ),
        ("arrivals", _FROM_0, "Events that arrive at the head each second."),
        (
            "late",
            str,
            "SHARE:SECONDS: this share of arriving events is up to so many seconds old.",
        ),
        (
            "unsorted",
            _SHARE,
            "Share of events whose timestamp is up to two hours away from where it belongs.",
        ),
        ("malformed", _SHARE, "Share of events that do not fit; see --list-malformed."),
        ("malformed_kinds", str, "Only these kinds of dirt, separated by commas."),
    ],
    "service": [
        ("port", click.IntRange(0, 65535), "Port to listen on; 0 picks a free one."),
        ("key", str, f"API key; better given as {KEY_VARIABLE} in the environment."),
        ("limit", click.IntRange(1), "Requests a window."),
        ("window", _ABOVE_0, "Length of the window in seconds."),
        (
            "window_kind",
            click.Choice(["sliding", "fixed", "aligned"]),
            (
                "sliding: the list of the last requests; fixed: from the first request after "
                "the former one ended; aligned: starts at multiples of the window on the clock."
            ),
        ),
        ("cursor_lifetime", _ABOVE_0, "Seconds that a cursor lives."),
        ("latency", str, "Seconds that a reply takes: 2, or a range as 0-5 (drawn by the seed)."),
        (
            "max_page",
            click.IntRange(1),
            "Events a page at most; a greater limit is capped in silence.",
        ),
        (
            "last_page",
            click.Choice(["exact", "empty"]),
            "exact: the last page says hasMore: false; empty: an empty page follows it.",
        ),
        (
            "key_lifetime",
            _FROM_0,
            "Seconds from its first use after which the key is dead; 0 is never.",
        ),
        ("key_requests", click.IntRange(0), "Requests after which the key is dead; 0 is never."),
    ],
}


def feed_options(command: Command) -> Command:
    """Add the options that describe the feed."""
    return _add(command, _GROUPS["feed"])


def api_options(command: Command) -> Command:
    """Add all options of the API."""
    command = click.option(
        "--list-faults",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_list_faults,
        help="List all faults.",
    )(command)
    command = click.option(
        "--list-malformed",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_list_dirt,
        help="List all dirt.",
    )(command)
    command = click.option(
        "--fault",
        multiple=True,
        metavar="NAME[=VALUE]@PAGE[xCOUNT]",
        help="A fault, as listed by --list-faults; may be given several times.",
    )(command)
    return feed_options(_add(command, _GROUPS["service"]))


def fault_help() -> str:
    """Describe every fault, one line each, for the end of a help text."""
    lines = [
        "\b",
        "Faults (--fault NAME[=VALUE]@PAGE[xCOUNT]):",
        "PAGE counts along a walk: the request without a cursor asks for page 1, and the",
        "cursor that page n handed out asks for page n + 1. Asking again for a page keeps",
        "its number; a new walk counts from 1. COUNT requests for the page are hit (default",
        "1, or `forever`), counted over the life of the server; then it is served as it is.",
        "Several faults on one page hit one after the other. Every fault but `refused`",
        "spends a request of the budget.",
        "",
        "\b",
    ]
    width = max(len(name) for name in FAULTS) + 2
    for name, kind in FAULTS.items():
        default = "" if kind.default is None else f" [VALUE: {kind.default:g}]"
        lines.append(f"{name:<{width}}{kind.help}{default}")
    return "\n".join(lines)


def _add(command: Command, group: list[tuple[str, Any, str]]) -> Command:
    """Add options, so that they are listed in the order of the group."""
    for name, kind, text in reversed(group):
        command = click.option(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=_DEFAULTS[name],
            show_default=_DEFAULTS[name] not in {"", 0},
            envvar=KEY_VARIABLE if name == "key" else None,
            help=text,
        )(command)
    return command


def _list_faults(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001
    """Print the faults and end."""
    if wanted:
        click.echo(fault_help().replace("\b\n", ""))
        context.exit()


def _list_dirt(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001
    """Print the kinds of dirt and end."""
    if wanted:
        width = max(len(name) for name in dirty.KINDS) + 2
        for name, kind in dirty.KINDS.items():
            click.echo(f"{name:<{width}}{kind.help}{_FITS[kind.fits]}")
        context.exit()
