"""Fetching one page: within the rate limit, with bounded retries and waits."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync.client import (
    CLOCK_GRACE,
    MAX_ATTEMPTS,
    MAX_RETRY_DELAY_SECONDS,
    MAX_WAIT_SECONDS,
    PageClient,
    RawResponse,
    SystemClock,
)
from tap_datasync.errors import (
    AccessDeniedError,
    ApiChangedError,
    CursorExpiredError,
    ResponseAction,
    RetriesExhaustedError,
    TapDataSyncError,
    TransportError,
    UsageError,
    interpret_response,
)
from tap_datasync.parsing import MAX_CURSOR_CHARACTERS
from tap_datasync.rate_limit import RateLimitHeaders

from tests.tap.tap_helpers import NOON, QUIET, body_of, client_of, event, limits

GOOD = body_of(event())
LOST = TransportError("connection", "the connection was lost", counted=True)
LOGGER = logging.getLogger("tests.client")


def response(status: int = 429, body: bytes = b"", **headers: str) -> RawResponse:
    return RawResponse(status, {k.replace("_", "-"): v for k, v in headers.items()}, body)


def test_valid_page_is_fetched_with_one_request():
    client, transport, clock = client_of(RawResponse(200, limits(10, 9, 60), GOOD))
    transport.latency = 3.0
    page = client.fetch("here")
    assert transport.cursors == ["here"]
    assert clock.sleeps == []
    assert page.returned == 1
    assert page.requested_at == NOON
    assert page.received_at == NOON + timedelta(seconds=3)
    assert page.rate_limit == RateLimitHeaders(10, 9, 60)
    assert client.stats.retries == Counter()
    assert client.stats.rate_limit_wait_seconds == 0


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (response(503), "http_503"),
        (response(502, b"<html>"), "http_502"),
        (response(503, b'{"code":"CURSOR_STORE_UNAVAILABLE"}'), "http_503"),
        (LOST, "connection"),
        (TransportError("timeout", "no response", counted=True), "timeout"),
        (TransportError("connection", "refused", counted=False), "connection"),
        *((body, "invalid_body") for body in (b"", b"null", b"<html>", GOOD[:-5], b'{"data":[]}')),
    ],
)
def test_transient_failures_are_retried_with_growing_delays(failure, cause):
    client, transport, clock = client_of(failure, failure, failure, GOOD)
    assert client.fetch("here").returned == 1
    assert transport.cursors == ["here"] * 4
    assert clock.sleeps == sorted(clock.sleeps)
    assert len(clock.sleeps) == 3
    stats = client.take_stats()
    assert (stats.retries, stats.rate_limit_wait_seconds) == ({cause: 3}, 0)
    assert client.stats.retries == Counter()


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (response(503), "service unavailable (HTTP 503)"),
        (LOST, "the connection was lost"),
        (b"[]", "the response is not a page of events: Expected `object`, got `array`"),
    ],
)
def test_attempts_are_bounded_and_each_is_logged(failure, reason, caplog):
    client, transport, clock = client_of(failure, logger=LOGGER)
    with pytest.raises(RetriesExhaustedError) as error:
        client.fetch(None)
    assert str(error.value) == f"Gave up after 8 attempts: {reason}. Try again later."
    assert len(transport.cursors) == MAX_ATTEMPTS
    assert clock.sleeps == [1, 2, 4, 8, 16, 30, MAX_RETRY_DELAY_SECONDS]
    first, *others = caplog.records
    assert first.levelname == "WARNING"
    assert first.getMessage().endswith(f"{reason[1:]}: retrying in 1 s (attempt 2 of 8)")
    assert len(others) == MAX_ATTEMPTS - 2


def test_rate_limit_waits_do_not_use_up_attempts():
    limited = [response(Retry_After="1") for _ in range(40)]
    client, transport, _ = client_of(*limited, *[LOST] * 7, GOOD)
    assert client.fetch(None).returned == 1
    assert len(transport.cursors) == 48
    assert client.stats.retries == {"http_429": 40, "connection": 7}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "28"} | limits(10, 0, 40), 28),
        (
            {
                "Retry_After": "Tue, 27 Jan 2026 07:00:30 GMT",
                "Date": "Tue, 27 Jan 2026 07:00:00 GMT",
            },
            30,
        ),
        (limits(10, 0, 1_769_515_217), 17),
        ({}, 5),
        ({"Retry_After": "soon"}, 5),
    ],
)
def test_429_is_waited_out_exactly(headers, seconds):
    client, _, clock = client_of(response(**headers), GOOD)
    client.fetch(None)
    assert clock.sleeps == [pytest.approx(seconds, abs=0.01)]
    assert client.stats.rate_limit_wait_seconds == pytest.approx(seconds, abs=0.01)


def test_429s_in_a_row_are_bounded():
    client, transport, clock = client_of(response(Retry_After="60"))
    with pytest.raises(RetriesExhaustedError, match="hour"):
        client.fetch(None)
    assert MAX_WAIT_SECONDS <= clock.passed <= MAX_WAIT_SECONDS + 120
    assert len(transport.cursors) < 120


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("value", ["4000", "99999999999", "1" + "0" * 300])
@pytest.mark.parametrize("cursor", [None, "here"])
def test_wait_of_more_than_an_hour_is_not_slept(value, status, cursor):
    client, _, clock = client_of(response(status, Retry_After=value), GOOD)
    with pytest.raises(RetriesExhaustedError, match="more than an hour"):
        client.fetch(cursor)
    assert clock.sleeps == []


@pytest.mark.parametrize(("value", "seconds", "waited"), [("20", 20, 20), ("0", 1, 0)])
def test_retry_after_of_an_unavailable_service_is_respected(value, seconds, waited, caplog):
    client, _, clock = client_of(response(503, Retry_After=value), GOOD, logger=LOGGER)
    client.fetch(None)
    assert clock.sleeps == [pytest.approx(seconds)]
    assert client.stats.rate_limit_wait_seconds == pytest.approx(waited)
    assert f"retrying in {seconds} s" in caplog.text


def test_waits_for_the_rate_limit_before_the_request(caplog):
    client, _, clock = client_of(RawResponse(200, limits(1, 0, 60), GOOD), logger=LOGGER)
    with caplog.at_level(logging.INFO):
        client.fetch(None)
        client.fetch("next")
    assert clock.sleeps == [pytest.approx(60, abs=0.2)]
    assert client.stats.rate_limit_wait_seconds == clock.sleeps[0]
    assert "Waiting 60 s for the rate limit" in caplog.text


def test_no_request_is_spent_on_an_expired_cursor():
    """It may expire at any date."""
    client, transport, clock = client_of(GOOD)
    earliest = datetime.min.replace(tzinfo=timezone.utc)
    latest = datetime.max.replace(tzinfo=timezone.utc)
    clock.passed = CLOCK_GRACE.total_seconds()
    for expires_at in (NOON, latest):
        client.fetch("here", expires_at=expires_at)
    clock.passed += 0.1
    for expires_at in (NOON, earliest):
        with pytest.raises(CursorExpiredError):
            client.fetch("here", expires_at=expires_at)
    assert transport.cursors == ["here", "here"]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("value", ["300", "4000", "1" + "0" * 300])
def test_no_wait_is_slept_for_a_cursor_that_expires_in_it(status, value):
    client, transport, clock = client_of(response(status, Retry_After=value), GOOD)
    with pytest.raises(CursorExpiredError):
        client.fetch("here", expires_at=NOON + timedelta(seconds=100))
    assert transport.cursors == ["here"]
    assert clock.sleeps == []


def test_retries_end_when_the_cursor_expires():
    client, transport, _ = client_of(response(503))
    with pytest.raises(CursorExpiredError):
        client.fetch("here", expires_at=NOON + timedelta(seconds=10))
    assert len(transport.cursors) < MAX_ATTEMPTS


@pytest.mark.parametrize("cursor", ["a\ud800b", "c" * (MAX_CURSOR_CHARACTERS + 1)])
def test_cursor_that_cannot_be_sent_is_expired(cursor):
    client, transport, _ = client_of(GOOD)
    with pytest.raises(CursorExpiredError):
        client.fetch(cursor)
    assert transport.cursors == []


@pytest.mark.parametrize(
    ("body", "is_named"),
    [
        (b'{"code":"BAD_KEY","message":"secret"}', True),
        (b'{"code":"two words"}', False),
        (b'{"code":"%s"}' % (b"A" * 60), False),
        (b'{"code":5}', False),
        (b"{}", False),
        (b"<html>", False),
        (b"\xff", False),
        (b"[" * 5000, False),
        (b'{"code":"BAD_KEY"}' + b" " * 20_000, False),
    ],
)
def test_permanent_failure_ends_the_run_and_names_only_the_code_of_its_body(body, is_named):
    client, transport, _ = client_of(response(401, body))
    with pytest.raises(AccessDeniedError) as error:
        client.fetch(None)
    assert len(transport.cursors) == 1
    label = "(HTTP 401, BAD_KEY)" if is_named else "(HTTP 401)"
    assert str(error.value).startswith(f"The API rejected the key {label}. ")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("failure", [response(502), LOST])
def test_error_page_of_a_gateway_and_lost_response_use_a_slot(failure):
    client, _, clock = client_of(RawResponse(200, limits(2, 1, 60), GOOD), failure, GOOD)
    client.fetch(None)
    client.fetch(None)
    assert sum(clock.sleeps) == pytest.approx(60, abs=0.3)


def test_another_stream_has_a_parser_page_size_and_rate_limit_of_its_own():
    events, transport, clock = client_of(RawResponse(200, limits(2, 0, 60), GOOD))
    sizes: list[int] = []

    class OtherTransport:
        def get(self, cursor: str | None, limit: int) -> RawResponse:
            sizes.append(limit)
            return transport.get(cursor, 5000)

    page = SimpleNamespace(next_cursor=None, expires_in=None)
    others = PageClient(
        OtherTransport(), lambda *_, **__: page, page_size=50, clock=clock, logger=QUIET
    )
    events.fetch(None)
    assert others.fetch(None) is page
    assert (sizes, clock.sleeps) == ([50], [])
    others.fetch(None)
    assert sum(clock.sleeps) == pytest.approx(60, abs=1.3)


@pytest.mark.parametrize(
    ("body", "headers", "warning"),
    [
        (body_of(event(), cursorExpiresIn="soon"), {}, "assuming 120 s"),
        (GOOD, limits(10, 9, 10**400), "Ignoring X-RateLimit headers"),
    ],
)
def test_unusable_values_are_ignored_with_one_warning(body, headers, warning, caplog):
    client, _, _ = client_of(RawResponse(200, headers, body), logger=LOGGER)
    for _ in range(3):
        assert client.fetch(None).returned == 1
    assert caplog.text.count(warning) == 1


header_names = st.sampled_from(
    ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After", "Date"]
)
header_values = (
    st.text(st.characters(max_codepoint=255), max_size=30)
    | st.integers().map(str)
    | st.sampled_from(["9" * 400, "1e400", "-0", "NaN", "10", "0", "1769515217"])
)


@given(
    status=st.sampled_from([200, 429, 503]) | st.integers(100, 999),
    headers=st.dictionaries(header_names, header_values),
    body=st.binary(max_size=50) | st.just(GOOD),
    cursor=st.none() | st.text(st.characters(codec=None, exclude_categories=()), max_size=5),
)
def test_arbitrary_responses_raise_no_unexpected_exception(status, headers, body, cursor):
    client, transport, clock = client_of(RawResponse(status, headers, body), GOOD)
    with contextlib.suppress(TapDataSyncError, CursorExpiredError):
        assert client.fetch(cursor).returned == 1
    assert len(transport.cursors) <= 2
    assert clock.passed <= MAX_WAIT_SECONDS + MAX_RETRY_DELAY_SECONDS


def test_system_clock_is_aware_and_monotonic():
    clock = SystemClock()
    before = clock.monotonic()
    clock.sleep(-5)
    assert clock.now().utcoffset() == timedelta(0)
    assert clock.monotonic() >= before


# ------------------------------------------------------------------ responses without a page

RESOLUTIONS = {
    (ResponseAction.RETRY, RetriesExhaustedError): (
        *(100, 101, 103, 201, 202, 204, 206, 226, 300, 304, 305, 408, 409, 421, 423, 424, 425),
        *(500, 501, 502, 503, 504, 505, 507, 520, 522, 599, 999),
    ),
    (ResponseAction.RATE_LIMITED, RetriesExhaustedError): (429,),
    (ResponseAction.FAIL, AccessDeniedError): (401, 403),
    (ResponseAction.FAIL, UsageError): (407,),
    (ResponseAction.FAIL, ApiChangedError): (
        *(301, 302, 303, 307, 308, 402, 404, 405, 406, 410, 413, 418, 422, 451),
    ),
}


@pytest.mark.parametrize("with_cursor", [False, True])
def test_every_status_has_one_action_and_a_message(with_cursor):
    listed = {status: known for known, statuses in RESOLUTIONS.items() for status in statuses}
    for status in {*range(100, 1000)} - {200, 400}:
        resolution = interpret_response(status, code="SOME_CODE", with_cursor=with_cursor)
        assert resolution is not None
        found = (resolution.action, resolution.error)
        assert found == listed.get(status, found), status
        assert resolution.cause == f"http_{status}"
        assert f"HTTP {status}, SOME_CODE" in resolution.message
        is_sentence = resolution.message[0].isupper() and resolution.message.endswith(".")
        assert is_sentence is (resolution.action is ResponseAction.FAIL)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "NO CODE"),
        (400, "ANYTHING"),
        (404, "CURSOR_NOT_FOUND"),
        (410, "CURSOR_EXPIRED"),
        (422, "CURSOR_INVALID_FORMAT"),
    ],
)
def test_rejected_cursor_is_expired(status, code):
    client, transport, clock = client_of(response(status, b'{"code":"%s"}' % code.encode()))
    with pytest.raises(CursorExpiredError) as error:
        client.fetch("here")
    assert (code in str(error.value)) is code.isidentifier()
    assert (len(transport.cursors), clock.sleeps) == (1, [])
    assert client.stats.retries == {"cursor_refused": 1}
    with pytest.raises(ApiChangedError):
        client.fetch(None)
