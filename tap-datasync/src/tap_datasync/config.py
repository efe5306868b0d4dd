"""The settings, and one message for every way in which they are invalid."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from singer_sdk import typing as th

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_PAGE_SIZE = 5000
"""The API silently returns no more than this."""

MAX_LOOKBACK_SECONDS = 366 * 86400
"""A year: for more, read the whole feed (replication method FULL_TABLE)."""

MAX_TIMEOUT_SECONDS = 3600
"""A response that takes longer outlives every cursor."""

MAX_HOST_LABEL = 63
"""Longest part of a host name, between two dots (RFC 1035)."""

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
        description="Sent as header X-API-Key, to the host of api_url only.",
    ),
    th.Property(
        "page_size",
        th.IntegerType(minimum=1, maximum=MAX_PAGE_SIZE),
        default=MAX_PAGE_SIZE,
        title="Page size",
        description="Events per request, 1 to 5000. A response takes as long for few as for many.",
    ),
    th.Property(
        "lookback",
        th.NumberType(minimum=0, maximum=MAX_LOOKBACK_SECONDS),
        default=3600,
        title="Lookback",
        description=(
            "Seconds by which an event may arrive late: an incremental scan reads as far "
            "below the newest loaded event. One hour is less than a page."
        ),
    ),
    th.Property(
        "request_timeout",
        th.NumberType(minimum=1, maximum=MAX_TIMEOUT_SECONDS),
        default=30,
        title="Request timeout",
        description="Seconds within which a response has to be complete; then it is retried.",
    ),
    additional_properties=False,
)


def validate(config: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    """Yield a message for every invalid setting, beyond the errors of the JSON schema.

    Args:
        config: Settings.
        known: Schemas of all settings by name, those of the SDK included.
    """
    yield from _validate_names(config, known)
    for name in ("api_url", "api_key"):
        value = config.get(name)
        if value is None or value == "":
            yield f"The setting '{name}' is missing."
        elif not isinstance(value, str):
            yield f"The setting '{name}' must be a string."
    if isinstance(config.get("api_url"), str) and config["api_url"]:
        yield from _validate_url(config["api_url"])
    for name, value in config.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"The setting '{name}' must be a finite number."
    if isinstance(config.get("api_key"), str):
        yield from _validate_key(config["api_key"])


def _validate_names(config: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
    for name in config:
        if name == "batch_config":
            yield (
                "The setting 'batch_config' is not supported: the tap emits RECORD messages "
                "only. Remove it."
            )
        elif name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            yield f"There is no setting '{name}'.{hint}"


def _validate_key(key: str) -> Iterator[str]:
    if not (key.isascii() and key.isprintable()):
        yield "The setting 'api_key' has characters that an HTTP header cannot hold."
    elif key != key.strip():
        yield "The setting 'api_key' begins or ends with a space."


def _validate_url(url: str) -> Iterator[str]:
    message = "The setting 'api_url' must look like https://example.com/api/v1: {}."
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port != 0
    except ValueError:
        yield message.format("it is not a URL")
        return
    if parts.scheme not in {"http", "https"}:
        yield message.format("it has to begin with https:// or http://")
    elif not (_is_host(parts.hostname or "") and port_is_valid) or any(c.isspace() for c in url):
        yield message.format("it has no valid host")
    elif parts.username is not None or parts.query or parts.fragment:
        yield message.format("user, query and fragment are not supported")


def _is_host(name: str) -> bool:
    """Return whether each part of the name has a valid length, as requests demands."""
    return all(0 < len(part) <= MAX_HOST_LABEL for part in name.removesuffix(".").split("."))
