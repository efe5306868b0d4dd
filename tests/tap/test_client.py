"""Getting one page: within the limit, again after a failure, never for ever."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta

import pytest
from tap_datasync.budget import RateLimit
from tap_datasync.client import (
    CLOCK_GRACE,
    MAX_PAUSE,
    MAX_TRIES,
    MAX_WAIT,
    CursorRefusedError,
    PageClient,
    Reply,
)
from tap_datasync.clock import SystemClock
from tap_datasync.failures import (
    AccessDeniedError,
    ApiChangedError,
    RetriesExhaustedError,
    TransportError,
)
from tap_helpers import NOON, FakeClock, FakeTransport, body_of, client_of, event, limits

GOOD = body_of(event())
BROKEN = TransportError("connection", "the connection broke", counted=True)


def refusal(status: int = 429, body: bytes = b"", **headers: str) -> Reply:
    return Reply(status, {k.replace("_", "-"): v for k, v in headers.items()}, body)


def test_a_good_page_comes_at_once():
    """One request, no wait, and what the headers said."""
    client, transport, clock = client_of(Reply(200, limits(10, 9, 60), GOOD))
    transport.latency = 3.0
    exchange = client.get_page("here")
    assert transport.asked == ["here"]
    assert clock.sleeps == []
    assert exchange.page.returned == 1
    assert exchange.requested_at == NOON
    assert exchange.received_at == NOON + timedelta(seconds=3)
    assert exchange.budget == RateLimit(10, 9, 60)
    assert (client.effort.retries, client.effort.waited) == (Counter(), 0.0)


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (refusal(500), "500"),
        (refusal(502, b"<html>"), "502"),
        (refusal(503), "503"),
        (refusal(504), "504"),
        (BROKEN, "connection"),
        (TransportError("timeout", "no reply", counted=True), "timeout"),
        (TransportError("connection", "refused", counted=False), "connection"),
        (b"", "broken page"),
        (b"null", "broken page"),
        (b"<html>", "broken page"),
        (GOOD[:-5], "broken page"),
        (b'{"data":[]}', "broken page"),
    ],
)
def test_what_may_pass_is_tried_again_with_growing_pauses(failure, cause):
    """Three failures in a row, then the page; the same cursor each time."""
    client, transport, clock = client_of(failure, failure, failure, GOOD)
    assert client.get_page("here").page.returned == 1
    assert transport.asked == ["here"] * 4
    assert clock.sleeps == sorted(clock.sleeps)
    assert len(clock.sleeps) == 3
    assert client.effort.retries == {cause: 3}
    assert client.effort.waited == 0


@pytest.mark.parametrize("failure", [refusal(503), BROKEN, b"null"])
def test_tries_are_bounded(failure):
    """A failure that stays ends the run with a sentence, in some two minutes."""
    client, transport, clock = client_of(failure)
    with pytest.raises(RetriesExhaustedError, match=r"^Gave up after 8 tries: .*again later\.$"):
        client.get_page(None)
    assert len(transport.asked) == MAX_TRIES
    assert max(clock.sleeps) <= MAX_PAUSE
    assert 60 <= clock.passed <= 180


def test_every_failure_is_told_with_what_is_done_about_it(caplog):
    """The log has one warning a try."""
    logger = logging.getLogger("tests.client")
    client, _, _ = client_of(refusal(503), GOOD, logger=logger)
    with caplog.at_level(logging.INFO):
        client.get_page(None)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "(HTTP 503): trying again in 1 s (try 2 of 8)" in record.getMessage()


def test_waits_for_the_limit_do_not_eat_the_tries():
    """Forty 429s and seven failures are still a page."""
    limited = [refusal(Retry_After="1") for _ in range(40)]
    client, transport, _ = client_of(*limited, *[BROKEN] * 7, GOOD)
    assert client.get_page(None).page.returned == 1
    assert len(transport.asked) == 48
    assert client.effort.retries == {"429": 40, "connection": 7}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "28"}, 28),
        ({"Retry_After": "Tue, 27 Jan 2026 12:00:30 GMT"}, 30),
        ({"Retry_After": "28", **limits(10, 0, 28)}, 28),
        (limits(10, 0, 17), 17),
        ({}, 5),
        ({"Retry_After": "soon"}, 5),
    ],
)
def test_a_429_is_waited_out_exactly(headers, seconds):
    """As seconds, as a date, by the reset, or blindly."""
    client, _, clock = client_of(refusal(**headers), GOOD)
    client.get_page(None)
    assert clock.sleeps == [pytest.approx(seconds, abs=0.01)]
    assert client.effort.waited == pytest.approx(seconds, abs=0.01)


@pytest.mark.parametrize("value", ["0", "1", "Tue, 27 Jan 2026 11:00:00 GMT", None])
def test_429s_without_end_end(value):
    """Neither an endless loop, nor a storm of requests."""
    client, transport, clock = client_of(refusal(**({"Retry_After": value} if value else {})))
    with pytest.raises(RetriesExhaustedError, match="429 for an hour"):
        client.get_page(None)
    assert MAX_WAIT <= clock.passed <= MAX_WAIT + 120
    assert len(transport.asked) < 120


@pytest.mark.parametrize("value", ["4000", "99999999999", "1" + "0" * 300])
def test_a_wait_of_more_than_an_hour_is_not_slept(value):
    """A run that sleeps for a day looks like one that hangs."""
    for cursor, expires_at in ((None, None), ("here", None)):
        client, _, clock = client_of(refusal(Retry_After=value), GOOD)
        with pytest.raises(RetriesExhaustedError, match="more than an hour"):
            client.get_page(cursor, expires_at)
        assert clock.sleeps == []
    client, _, clock = client_of(refusal(Retry_After=value), GOOD)
    with pytest.raises(CursorRefusedError):
        client.get_page("here", NOON + timedelta(seconds=100))


def test_the_budget_is_waited_for_before_a_request_that_would_be_refused(caplog):
    """And the wait is told."""
    logger = logging.getLogger("tests.client")
    client, _, clock = client_of(Reply(200, limits(1, 0, 60), GOOD), logger=logger)
    with caplog.at_level(logging.INFO):
        client.get_page(None)
        client.get_page("next")
    assert clock.sleeps == [pytest.approx(60, abs=0.2)]
    assert client.effort.waited == clock.sleeps[0]
    assert "Waiting 60 s for the API's limit" in caplog.text


def test_no_request_is_spent_on_a_dead_cursor():
    """By the clock, with a small grace."""
    client, transport, clock = client_of(GOOD)
    client.get_page("here", NOON)
    clock.passed += CLOCK_GRACE.total_seconds() + 0.1
    with pytest.raises(CursorRefusedError):
        client.get_page("here", NOON)
    assert transport.asked == ["here"]


def test_no_request_is_spent_on_a_cursor_that_dies_while_the_limit_is_waited_for():
    """A 429 that lasts longer than the cursor lives means a new walk, at once."""
    client, transport, clock = client_of(refusal(Retry_After="300"), GOOD)
    with pytest.raises(CursorRefusedError):
        client.get_page("here", NOON + timedelta(seconds=100))
    assert transport.asked == ["here"]
    assert clock.sleeps == []
    # The new walk waits as long as was said.
    client.get_page(None)
    assert clock.sleeps == [pytest.approx(300, abs=0.01)]


def test_a_cursor_that_dies_while_failures_are_waited_out_is_given_up():
    """Retries stop with the cursor's life."""
    client, transport, _ = client_of(refusal(503))
    with pytest.raises(CursorRefusedError):
        client.get_page("here", NOON + timedelta(seconds=10))
    assert len(transport.asked) < MAX_TRIES


@pytest.mark.parametrize("code", ["CURSOR_EXPIRED", "CURSOR_INVALID_FORMAT", "WHATEVER"])
def test_a_cursor_that_is_refused_is_given_up_at_once(code):
    """A 400 with a cursor begins a new walk."""
    reply = refusal(400, b'{"code":"%s"}' % code.encode())
    client, transport, clock = client_of(reply)
    with pytest.raises(CursorRefusedError, match=code):
        client.get_page("here")
    assert (len(transport.asked), clock.sleeps) == (1, [])


@pytest.mark.parametrize(
    ("status", "error"), [(400, ApiChangedError), (401, AccessDeniedError), (404, ApiChangedError)]
)
def test_what_cannot_be_mended_stops_at_once(status, error):
    """One request, one sentence."""
    client, transport, _ = client_of(refusal(status))
    with pytest.raises(error, match=r"\.$"):
        client.get_page(None)
    assert len(transport.asked) == 1


@pytest.mark.parametrize(
    ("body", "told"),
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
def test_of_an_error_only_its_code_is_repeated(body, told):
    """Other text of the API might hold anything."""
    client, _, _ = client_of(refusal(401, body))
    with pytest.raises(AccessDeniedError) as error:
        client.get_page(None)
    assert ("BAD_KEY" in str(error.value)) is told
    assert "secret" not in str(error.value)


def test_the_systems_clock_is_the_systems():
    """Aware, in UTC, and it sleeps; never for a negative time."""
    clock = SystemClock()
    before = clock.monotonic()
    clock.sleep(-5)
    assert clock.now().utcoffset() == timedelta(0)
    assert clock.monotonic() >= before


def test_a_gateways_answer_leaves_the_budget_as_it_was():
    """It says nothing of the limit, and may have been counted."""
    clock = FakeClock()
    transport = FakeTransport(clock, Reply(200, limits(2, 1, 60), GOOD), refusal(502), GOOD)
    client = PageClient(
        transport, page_size=5000, clock=clock, logger=logging.getLogger("tests.quiet")
    )
    client.get_page(None)
    client.get_page(None)
    assert client.effort.waited == pytest.approx(59, abs=0.3)
