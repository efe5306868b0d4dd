"""The settings: one message for every way in which they are invalid."""

from __future__ import annotations

from typing import Any

import pytest
from singer_sdk.exceptions import ConfigValidationError
from tap_datasync.tap import TapDataSync

from tests.tap.tap_helpers import KEY

GOOD: dict[str, Any] = {"api_url": "https://example.com/api/v1", "api_key": KEY}


def errors_of(**changes: Any) -> list[str]:
    config = {name: value for name, value in (GOOD | changes).items() if value is not ...}
    try:
        TapDataSync(config=config)
    except ConfigValidationError as error:
        return list(error.errors)
    return []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (5000, 3600, 30)),
        # Meltano passes settings without a value as null.
        ({"page_size": None, "lookback": None}, (5000, 3600, 30)),
        # In the environment everything is text.
        ({"lookback": "60", "request_timeout": "2.5"}, (5000, 60.0, 2.5)),
    ],
)
def test_address_and_key_are_enough(changes, expected):
    config = TapDataSync(config=GOOD | changes).config
    assert (config["page_size"], config["lookback"], config["request_timeout"]) == expected


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
def test_address_is_a_scheme_and_a_host(url):
    assert errors_of(api_url=url) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        *(
            ({name: value}, f"The setting '{name}' is missing.")
            for name in ("api_key", "api_url")
            for value in (..., None, "")
        ),
        ({"api_key": 5}, "The setting 'api_key' must be a string."),
        ({"api_url": ["x"]}, "The setting 'api_url' must be a string."),
        *(
            (
                {"api_key": value},
                "The setting 'api_key' has characters that an HTTP header cannot hold.",
            )
            for value in ("a\nb", "schlüssel")
        ),
        ({"api_key": " key"}, "The setting 'api_key' begins or ends with a space."),
        ({"api_key": "key "}, "The setting 'api_key' begins or ends with a space."),
        ({"api_kye": "x"}, "There is no setting 'api_kye'. Did you mean 'api_key'?"),
        ({"zzzzzz": "x"}, "There is no setting 'zzzzzz'."),
        (
            {"batch_config": {"encoding": {"format": "jsonl"}}},
            (
                "The setting 'batch_config' is not supported: the tap emits RECORD messages "
                "only. Remove it."
            ),
        ),
        ({"lookback": float("inf")}, "The setting 'lookback' must be a finite number."),
        ({"lookback": "nan"}, "The setting 'lookback' must be a finite number."),
    ],
)
def test_an_invalid_setting_is_named(changes, expected):
    assert expected in errors_of(**changes)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("example.com", "it has to begin with https:// or http://."),
        ("ftp://example.com", "it has to begin with https:// or http://."),
        ("https://", "it has no valid host."),
        ("https:///path", "it has no valid host."),
        ("https://exam ple.com", "it has no valid host."),
        ("https://example.com:0/", "it has no valid host."),
        ("https://example..com/", "it has no valid host."),
        (f"https://{'a' * 64}.com/", "it has no valid host."),
        ("https://example.com:99999/", "it is not a URL."),
        ("https://[::1", "it is not a URL."),
        ("https://user:pass@example.com/", "user, query and fragment are not supported."),
        ("https://example.com/?a=b", "user, query and fragment are not supported."),
        ("https://example.com/#x", "user, query and fragment are not supported."),
    ],
)
def test_an_invalid_address_is_refused_before_any_request(url, words):
    start = "The setting 'api_url' must look like https://example.com/api/v1: "
    assert errors_of(api_url=url) == [start + words]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("page_size", value) for value in (0, 5001, 2.5, "many")),
        *(("lookback", value) for value in (-1, 10**12, "long", True)),
        *(("request_timeout", value) for value in (0, 10**9, [])),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(name, value):
    assert any(name in error for error in errors_of(**{name: value}))
