"""The rules of the API, each declared once: for the API itself and for the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import click

BASE = "/api/v1"
"""Path of the API; a client's ``api_url`` ends in it."""

HOST = "127.0.0.1"
"""Address that the sandbox listens on by default."""

STATS_PATH = "/__sandbox__/stats"
"""Path of the request log, outside the API."""

ELSEWHERE_PATH = "/__sandbox__/elsewhere"
"""Where redirects lead; the request log counts who follows them."""

KEY_VARIABLE = "DATASYNC_SANDBOX_KEY"

WindowKind = Literal["sliding", "fixed", "aligned"]
LastPage = Literal["exact", "empty"]

_LATENCY = re.compile(r"(\d*\.?\d+)(?:-(\d*\.?\d+))?")
_POSITIVE = click.FloatRange(0, min_open=True)
_COUNT = click.IntRange(1)


def option(default: Any, kind: Any, help_text: str) -> Any:
    """Declare an option: default, type and help text."""
    return field(default=default, metadata={"type": kind, "help": help_text})


def parse(pattern: re.Pattern[str], text: str, expected: str) -> re.Match[str]:
    """Match the text of an option.

    Raises:
        ValueError: If it is not as expected.
    """
    match = pattern.fullmatch(text.strip())
    if match is None:
        message = f"{expected}, not {text!r}"
        raise ValueError(message)
    return match


@dataclass(frozen=True)
class ApiConfig:
    """The rules of the API, in the notation of the command line.

    The help text of each rule describes it.
    """

    key: str = option(
        "sandbox-key", str, f"API key; better given as {KEY_VARIABLE} in the environment."
    )
    limit: int = option(10, _COUNT, "Requests per window.")
    window: float = option(60.0, _POSITIVE, "Length of the window in seconds.")
    window_kind: WindowKind = option(  # noqa: RUF009 - it returns a field
        "sliding",
        click.Choice(["sliding", "fixed", "aligned"]),
        "sliding: the last requests; fixed: from the first request after the previous window; "
        "aligned: from multiples of the window on the clock.",
    )
    # From the arrival of the request that issued it.
    cursor_lifetime: float = option(120.0, _POSITIVE, "Seconds a cursor lives.")
    latency: str = option(
        "0", str, "Seconds that a reply takes: 2, or a range such as 0-5 (drawn by the seed)."
    )
    max_page: int = option(
        5000, _COUNT, "Events per page at most; a greater limit is capped without notice."
    )
    last_page: LastPage = option(  # noqa: RUF009 - likewise
        "exact",
        click.Choice(["exact", "empty"]),
        "exact: the last page says hasMore: false; empty: an empty page follows it.",
    )
    key_lifetime: float = option(
        0.0, click.FloatRange(0), "Seconds from its first use until the key expires; 0 is never."
    )
    key_requests: int = option(
        0, click.IntRange(0), "Requests after which the key expires; 0 is never."
    )

    @property
    def latency_range(self) -> tuple[float, float]:
        """Least and greatest time that a reply takes, in seconds.

        Raises:
            ValueError: If it is neither a number nor a range.
        """
        match = parse(_LATENCY, self.latency, "latency is seconds or a range, such as 2 or 0-5")
        return float(match[1]), float(match[2] or match[1])
