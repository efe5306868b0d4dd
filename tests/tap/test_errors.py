"""The table of failures: for every status, one action and one sentence."""

from __future__ import annotations

import pytest
from tap_datasync import bookmark, bulk, failures, tap
from tap_datasync.failures import (
    AccessDeniedError,
    Action,
    ApiChangedError,
    IncompleteFeedError,
    NoProgressError,
    RetriesExhaustedError,
    TransportError,
    judge,
)

RETRIED = [408, 425, 500, 502, 503, 504, 505, 507, 520, 522, 599]
FATAL = [201, 204, 206, 301, 302, 303, 307, 308, 402, 404, 405, 406, 410, 413, 418, 422, 451]


@pytest.mark.parametrize("with_cursor", [False, True])
@pytest.mark.parametrize(
    ("status", "action", "error"),
    [
        *((status, Action.RETRY, RetriesExhaustedError) for status in RETRIED),
        *((status, Action.STOP, ApiChangedError) for status in FATAL),
        (401, Action.STOP, AccessDeniedError),
        (403, Action.STOP, AccessDeniedError),
        (429, Action.WAIT, RetriesExhaustedError),
    ],
)
def test_every_status_has_one_action(status, action, error, with_cursor):
    """The cursor matters for none of these."""
    verdict = judge(status, code=None, with_cursor=with_cursor)
    assert verdict is not None
    assert (verdict.action, verdict.error) == (action, error)
    assert verdict.cause == str(status)


def test_a_good_status_has_no_verdict():
    """The body decides."""
    assert judge(200, code=None, with_cursor=False) is None


def test_a_bad_request_is_the_cursors_fault_where_there_is_one():
    """Without a cursor, nothing can be made better."""
    verdict = judge(400, code="CURSOR_EXPIRED", with_cursor=True)
    assert verdict is not None
    assert verdict.action is Action.NEW_WALK
    assert "CURSOR_EXPIRED" in verdict.message
    verdict = judge(400, code=None, with_cursor=False)
    assert verdict is not None
    assert (verdict.action, verdict.error) == (Action.STOP, ApiChangedError)


@pytest.mark.parametrize("status", range(201, 600))
def test_every_status_is_told_in_a_sentence(status):
    """With its number, and the API's own word for it."""
    verdict = judge(status, code="SOME_CODE", with_cursor=False)
    assert verdict is not None
    if verdict.action is Action.STOP:
        assert verdict.message[0].isupper()
        assert verdict.message.endswith(".")
    if verdict.action is not Action.WAIT:
        assert f"HTTP {status}, SOME_CODE" in verdict.message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RetriesExhaustedError, 1),
        (IncompleteFeedError, 1),
        (NoProgressError, 1),
        (AccessDeniedError, 3),
        (ApiChangedError, 3),
        (bookmark.BookmarkError, 3),
        (bulk.BulkDirectoryError, 2),
        (tap.UsageError, 2),
    ],
)
def test_exit_codes(error, code):
    """1: try again, 2: config, 3: hopeless."""
    assert issubclass(error, failures.TapDataSyncError)
    assert error("x").exit_code == code


def test_a_transport_error_says_whether_it_may_have_been_counted():
    """The budget wants to know."""
    error = TransportError("timeout", "no reply", counted=True)
    assert (error.cause, str(error), error.counted) == ("timeout", "no reply", True)
