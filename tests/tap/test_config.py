"""The settings: one message for every way in which they are invalid."""

from __future__ import annotations

from typing import Any

import pytest
from singer_sdk.exceptions import ConfigValidationError
from tap_datasync.tap import TapDataSync
from tap_helpers import KEY

GOOD: dict[str, Any] = {"api_url": "https://example.com/api/v1", "api_key": KEY}


def errors_of(**changes: Any) -> list[str]:
    config = {name: value for name, value in (GOOD | changes).items() if value is not ...}
    try:
        TapDataSync(config=config)
    except ConfigValidationError as error:
        return list(error.errors)
    return []


def test_address_and_key_are_enough():
    """Everything else has a default."""
    config = TapDataSync(config=dict(GOOD)).config
    assert (config["page_size"], config["lookback"], config["request_timeout"]) == (5000, 3600, 30)


def test_null_is_not_set():
    """Meltano passes settings without a value as null."""
    tap = TapDataSync(config=GOOD | {"page_size": None, "lookback": None})
    assert tap.config["page_size"] == 5000


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/api/v1",
        "http://127.0.0.1:8765/api/v1",
        "http://localhost",
        "https://[::1]:80/x",
        "https://example.com./api/",
    ],
)
def test_good_addresses(url):
    """Anything with a scheme and a host."""
    assert errors_of(api_url=url) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"api_key": ...}, "The setting 'api_key' is missing."),
        ({"api_key": ""}, "The setting 'api_key' is missing."),
        ({"api_key": None}, "The setting 'api_key' is missing."),
        ({"api_key": 5}, "The setting 'api_key' must be a string."),
        (
            {"api_key": "a\nb"},
            "The setting 'api_key' has characters that an HTTP header cannot hold.",
        ),
        (
            {"api_key": "schlüssel"},
            "The setting 'api_key' has characters that an HTTP header cannot hold.",
        ),
        ({"api_key": " key"}, "The setting 'api_key' begins or ends with a space."),
        ({"api_key": "key "}, "The setting 'api_key' begins or ends with a space."),
        ({"api_url": ...}, "The setting 'api_url' is missing."),
        ({"api_url": ["x"]}, "The setting 'api_url' must be a string."),
        ({"api_kye": "x"}, "There is no setting 'api_kye'. Did you mean 'api_key'?"),
        (
            {"batch_config": {"encoding": {"format": "jsonl"}}},
            (
                "The setting 'batch_config' is not supported: the tap emits RECORD messages "
                "only. Remove it."
            ),
        ),
        ({"zzzzzz": "x"}, "There is no setting 'zzzzzz'."),
        ({"lookback": float("inf")}, "The setting 'lookback' must be a finite number."),
        ({"lookback": "nan"}, "The setting 'lookback' must be a finite number."),
    ],
)
def test_an_invalid_setting_is_named(changes, expected):
    """By name, and with what was probably meant."""
    assert expected in errors_of(**changes)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("example.com", "it has to begin with"),
        ("ftp://example.com", "it has to begin with"),
        ("https://", "it has no valid host"),
        ("https:///path", "it has no valid host"),
        ("https://exam ple.com", "it has no valid host"),
        ("https://example.com:0/", "it has no valid host"),
        ("https://example..com/", "it has no valid host"),
        (f"https://{'a' * 64}.com/", "it has no valid host"),
        ("https://example.com:99999/", "it is not a URL"),
        ("https://[::1", "it is not a URL"),
        ("https://user:pass@example.com/", "user, query and fragment"),
        ("https://example.com/?a=b", "user, query and fragment"),
        ("https://example.com/#x", "user, query and fragment"),
    ],
)
def test_an_invalid_address_is_refused_before_any_request(url, words):
    """Before any request is made."""
    (error,) = errors_of(api_url=url)
    assert error.startswith("The setting 'api_url' must look like https://example.com/api/v1: ")
    assert words in error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("page_size", 0),
        ("page_size", 5001),
        ("page_size", 2.5),
        ("page_size", "many"),
        ("lookback", -1),
        ("lookback", 10**12),
        ("lookback", "long"),
        ("lookback", True),
        ("request_timeout", 0),
        ("request_timeout", 10**9),
        ("request_timeout", []),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(name, value):
    """No value gets as far as to be a crash."""
    assert any(name in error for error in errors_of(**{name: value}))


def test_numbers_from_the_environment_are_numbers():
    """Where everything is text."""
    config = TapDataSync(config=GOOD | {"lookback": "60", "request_timeout": "2.5"}).config
    assert (config["lookback"], config["request_timeout"]) == (60.0, 2.5)
