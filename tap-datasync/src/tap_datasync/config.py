"""The settings, and one sentence for every way to get them wrong."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from singer_sdk import typing as th

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_PAGE_SIZE = 5000
"""The API caps larger pages in silence."""

MAX_LOOKBACK = 366 * 86400
"""A year in seconds: with more, take the whole feed (replication method FULL_TABLE)."""

MAX_TIMEOUT = 3600
"""Seconds; a reply that takes longer outlives every cursor."""

SETTINGS = th.PropertiesList(
    th.Property(
        "api_url",
        th.StringType,
        required=True,
        title="API URL",
        description="Base address of the DataSync API, e.g. https://example.com/api/v1.",
    ),
    th.Property(
        "api_key",
        th.StringType,
        required=True,
        secret=True,
        title="API key",
        description="Sent as header X-API-Key, to the host of api_url alone.",
    ),
    th.Property(
        "page_size",
        th.IntegerType(minimum=1, maximum=MAX_PAGE_SIZE),
        default=MAX_PAGE_SIZE,
        title="Page size",
        description=("Events per request, 1 to 5000. A reply takes as long for few as for many."),
    ),
    th.Property(
        "lookback",
        th.NumberType(minimum=0, maximum=MAX_LOOKBACK),
        default=3600,
        title="Lookback",
        description=(
            "Seconds by which an event may arrive late: so much of what is loaded is "
            "read again. One hour costs less than a page."
        ),
    ),
    th.Property(
        "request_timeout",
        th.NumberType(minimum=1, maximum=MAX_TIMEOUT),
        default=30,
        title="Request timeout",
        description="Seconds within which a reply has to be complete; then it is asked again.",
    ),
    additional_properties=False,
)


def problems(config: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a config, a sentence each.

    Args:
        config: The config.
        known: All settings by name, the SDK's own included.
    """
    for name in config:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            yield f"There is no setting '{name}'.{hint}"
    for name in ("api_url", "api_key"):
        value = config.get(name)
        if value is None or value == "":
            yield f"The setting '{name}' is missing."
        elif not isinstance(value, str):
            yield f"The setting '{name}' must be a string."
    if isinstance(config.get("api_url"), str) and config["api_url"]:
        yield from _problems_of_url(config["api_url"])
    for name, value in config.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"The setting '{name}' must be a finite number."
    if isinstance(config.get("api_key"), str):
        yield from _problems_of_key(config["api_key"])


def _problems_of_key(key: str) -> Iterator[str]:
    if not (key.isascii() and key.isprintable()):
        yield "The setting 'api_key' holds characters that no header can hold."
    elif key != key.strip():
        yield "The setting 'api_key' begins or ends with a space."


def _problems_of_url(url: str) -> Iterator[str]:
    sentence = "The setting 'api_url' must look like https://example.com/api/v1: {}."
    try:
        parts = urlsplit(url)
        port_is_bad = parts.port == 0
    except ValueError:
        yield sentence.format("it is no address")
        return
    if parts.scheme not in {"http", "https"}:
        yield sentence.format("it has to begin with https:// or http://")
    elif not _is_host(parts.hostname or "") or port_is_bad or any(c.isspace() for c in url):
        yield sentence.format("it names no host")
    elif parts.username is not None or parts.query or parts.fragment:
        yield sentence.format("nothing may stand before the host or behind the path")


def _is_host(name: str) -> bool:
    """Say whether each part of the name is 1 to 63 long, as the HTTP library wants it."""
    return all(0 < len(part) <= 63 for part in name.removesuffix(".").split("."))  # noqa: PLR2004
