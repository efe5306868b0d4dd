"""The table of failed requests: one action and one message for every outcome."""

from __future__ import annotations

import pytest
from tap_datasync import errors, state
from tap_datasync.errors import (
    AccessDeniedError,
    ApiChangedError,
    ErrorResolution,
    ResponseAction,
    RetriesExhaustedError,
    UsageError,
    interpret_response,
)

RETRIED = [100, 101, 103, 201, 202, 204, 206, 226, 300, 304, 305]
RETRIED += [408, 409, 421, 423, 424, 425, 500, 501, 502, 503, 504, 505, 507, 520, 522, 599, 999]
FATAL = [301, 302, 303, 307, 308, 402, 404, 405, 406, 410, 413, 418, 422, 451]


def resolve(status: int, *, with_cursor: bool, code: str | None = None) -> ErrorResolution:
    resolution = interpret_response(status, code=code, with_cursor=with_cursor)
    assert resolution is not None
    return resolution


@pytest.mark.parametrize("with_cursor", [False, True])
@pytest.mark.parametrize(
    ("status", "action", "error"),
    [
        *((status, ResponseAction.RETRY, RetriesExhaustedError) for status in RETRIED),
        *((status, ResponseAction.FAIL, ApiChangedError) for status in FATAL),
        (401, ResponseAction.FAIL, AccessDeniedError),
        (403, ResponseAction.FAIL, AccessDeniedError),
        (407, ResponseAction.FAIL, UsageError),
        (429, ResponseAction.RATE_LIMITED, RetriesExhaustedError),
    ],
)
def test_every_status_has_one_action(status, action, error, with_cursor):
    resolution = resolve(status, with_cursor=with_cursor)
    assert (resolution.action, resolution.error) == (action, error)
    assert resolution.cause == f"http_{status}"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, None),
        (400, "ANYTHING"),
        (404, "CURSOR_NOT_FOUND"),
        (410, "CURSOR_EXPIRED"),
        (422, "CURSOR_INVALID_FORMAT"),
    ],
)
def test_rejected_cursor_resets_pagination(status, code):
    resolution = resolve(status, code=code, with_cursor=True)
    assert resolution.action is ResponseAction.RESET_PAGINATION
    assert resolution.cause == "cursor_refused"
    assert (code or "") in resolution.message
    resolution = resolve(status, code=code, with_cursor=False)
    assert (resolution.action, resolution.error) == (ResponseAction.FAIL, ApiChangedError)


def test_cursor_code_of_an_unavailable_service_does_not_reset_pagination():
    resolution = resolve(503, code="CURSOR_STORE_UNAVAILABLE", with_cursor=True)
    assert resolution.action is ResponseAction.RETRY


def test_every_status_has_a_message():
    for status in [*range(100, 200), *range(201, 1000)]:
        resolution = resolve(status, code="SOME_CODE", with_cursor=False)
        assert f"HTTP {status}, SOME_CODE" in resolution.message
        is_sentence = resolution.message[0].isupper() and resolution.message.endswith(".")
        assert is_sentence is (resolution.action is ResponseAction.FAIL)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RetriesExhaustedError, 1),
        (errors.IncompleteFeedError, 1),
        (errors.NoProgressError, 1),
        (AccessDeniedError, 3),
        (ApiChangedError, 3),
        (UsageError, 2),
        (state.StateError, 3),
    ],
)
def test_exit_codes(error, code):
    assert issubclass(error, errors.TapDataSyncError)
    assert error("x").exit_code == code
