"""The rate limiter against servers with every known way of counting, in simulated time."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync.rate_limit import (
    MAX_UNSPECIFIED_WAIT_SECONDS,
    RateLimiter,
    RateLimitHeaders,
    retry_after,
)

from tests.tap.tap_helpers import limits

KINDS = ("sliding", "anchored", "aligned")
JITTER = 0.015


@dataclass
class Limiter:
    """A server's limit: N requests per window, counted as one of KINDS.

    Attributes:
        kind: ``sliding`` window; fixed window ``anchored`` at its first request; fixed
            window ``aligned`` to a grid.
        limit: Requests per window.
        window: Seconds.
        at_end: The header is computed when the reply is sent, not when the request comes.
        floor: Seconds are rounded down.
    """

    kind: str
    limit: int
    window: float
    at_end: bool = False
    floor: bool = False
    counted: list[float] = field(default_factory=list)

    def _leaves_at(self, arrival: float) -> float:
        """Return when a request that arrived is no longer counted."""
        begins = {
            "sliding": arrival,
            "anchored": self.counted[0],
            "aligned": arrival // self.window * self.window,
        }
        return begins[self.kind] + self.window

    def _live(self, now: float) -> list[float]:
        """Return the requests that are counted at a time."""
        return [arrival for arrival in self.counted if now < self._leaves_at(arrival)]

    def request(self, arrival: float) -> bool:
        """Count a request, if the limit permits it."""
        live = self._live(arrival)
        if len(live) >= self.limit:
            return False
        self.counted = [*live, arrival]
        return True

    def free_from(self, arrival: float) -> float:
        """Return the earliest time, not before arrival, at which a request is permitted."""
        live = self._live(arrival)
        return arrival if len(live) < self.limit else self._leaves_at(live[0]) + 1e-6

    def headers(self, now: float) -> RateLimitHeaders:
        """Return the headers as of a time."""
        live = self._live(now)
        left = self._leaves_at(live[0]) - now if live else 0.0
        seconds = math.floor(left) if self.floor else math.ceil(left - 1e-9)
        return RateLimitHeaders(self.limit, self.limit - len(live), seconds)


@dataclass
class ScanTiming:
    """How long a scan took, and which of its requests got a 429."""

    seconds: float
    rejected: list[int]
    waited: float


def scan(  # noqa: PLR0913 - all that differs between clients
    server: Limiter,
    pages: int,
    *,
    latency: tuple[float, float],
    seed: int = 0,
    start: float = 0.0,
    others: float = 0.0,
    headers: bool = True,
) -> ScanTiming:
    """Fetch pages with the limiter; another client sends ``others`` requests a second."""
    draw = random.Random(seed)
    limiter = RateLimiter()
    now, waited, got, requests = start, 0.0, 0, 0
    rejected: list[int] = []
    next_other = now + draw.expovariate(others) if others else math.inf
    while got < pages:
        delay = limiter.delay(now)
        now, waited = now + delay, waited + delay
        limiter.on_request(now)
        requests += 1
        assert requests < pages * 10 + 50, "no endless loop"
        arrival = now + draw.uniform(0, JITTER)
        while next_other <= arrival:
            server.request(next_other)
            next_other += draw.expovariate(others)
        allowed = server.request(arrival)
        now = arrival + (draw.uniform(*latency) if allowed else 0.0)
        rate_limit = server.headers(now if server.at_end else arrival) if headers else None
        now += draw.uniform(0, JITTER)
        if allowed:
            got += 1
            limiter.on_response(rate_limit, now)
        else:
            rejected.append(requests)
            limiter.on_429(rate_limit, float(rate_limit.reset) if rate_limit else None, now)
    return ScanTiming(now - start, rejected, waited)


def oracle(
    server: Limiter, pages: int, *, latency: tuple[float, float], seed: int = 0, start: float = 0.0
) -> float:
    """Return the seconds that a client needs which knows the server's list."""
    draw = random.Random(seed)
    now = start
    for _ in range(pages):
        arrival = server.free_from(now + draw.uniform(0, JITTER))
        assert server.request(arrival)
        now = arrival + draw.uniform(*latency) + draw.uniform(0, JITTER)
    return now - start


def servers(**options: st.SearchStrategy[bool]) -> st.SearchStrategy[Limiter]:
    return st.builds(
        Limiter, st.sampled_from(KINDS), st.integers(1, 20), st.integers(1, 120), **options
    )


latencies = st.tuples(st.floats(0, 6), st.floats(0, 6)).map(lambda pair: tuple(sorted(pair)))
seeds = st.integers(0, 2**32)


@given(server=servers(), latency=latencies, seed=seeds, start=st.floats(0, 1000))
def test_gets_no_429_as_the_only_client(server, latency, seed, start):
    pages = 3 * server.limit + 5
    assert not scan(server, pages, latency=latency, seed=seed, start=start).rejected


@given(
    server=servers(),
    latency=latencies,
    seed=seeds,
    earlier=st.lists(st.floats(0, 200), max_size=30),
)
def test_restart_gets_at_most_one_429_at_its_first_request(server, latency, seed, earlier):
    for arrival in sorted(earlier):
        server.request(arrival)
    timing = scan(server, 3 * server.limit + 5, latency=latency, seed=seed, start=200.0)
    assert timing.rejected in ([], [1])


@given(
    server=servers().filter(lambda server: server.limit > 1),
    latency=latencies,
    seed=seeds,
    others=st.floats(0.01, 0.5),
)
def test_another_client_with_the_same_key_causes_few_429s(server, latency, seed, others):
    pages = 2 * server.limit + 5
    # It leaves at least half of the limit.
    rate = others * server.limit / server.window
    timing = scan(server, pages, latency=latency, seed=seed, others=rate)
    assert len(timing.rejected) <= 8


@given(server=servers(at_end=st.booleans(), floor=st.booleans()), latency=latencies, seed=seeds)
def test_headers_that_are_a_second_off_cause_few_429s(server, latency, seed):
    pages = 3 * server.limit + 5
    timing = scan(server, pages, latency=latency, seed=seed)
    # After a 429 the own memory is not used for ten windows: short ones pass quickly.
    assert len(timing.rejected) <= (5 if server.window >= 10 else pages)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("latency", [(0, 0), (0.5, 0.8), (1, 1), (2, 3.5), (4.8, 5), (0, 5)])
@pytest.mark.parametrize("phase", [0.0, 13.7, 31.2, 59.4])
def test_uses_99_percent_of_the_rate_limit(kind, latency, phase):
    for seed in range(5):
        timing = scan(Limiter(kind, 10, 60), 30, latency=latency, seed=seed, start=phase)
        best = oracle(Limiter(kind, 10, 60), 30, latency=latency, seed=seed, start=phase)
        assert not timing.rejected
        assert best / timing.seconds >= 0.99


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("latency", [(0, 0), (1, 1), (2, 3.5), (4.8, 5), (0, 5)])
def test_restart_costs_seconds_not_windows(kind, latency):
    for seed in range(5):
        for pages_before in (3, 10, 17):
            server, ideal = Limiter(kind, 10, 60), Limiter(kind, 10, 60)
            first = scan(server, pages_before, latency=latency, seed=seed)
            oracle(ideal, pages_before, latency=latency, seed=seed)
            begin = first.seconds + 2.0
            timing = scan(server, 30, latency=latency, seed=seed, start=begin)
            best = oracle(ideal, 30, latency=latency, seed=seed, start=begin)
            assert timing.rejected in ([], [1])
            assert best / timing.seconds >= 0.93


@given(server=servers(), seed=seeds, headers=st.booleans())
def test_does_not_wait_while_a_request_is_free(server, seed, headers):
    assert scan(server, server.limit, latency=(0, 0.1), seed=seed, headers=headers).waited == 0


@pytest.fixture
def limiter():
    return RateLimiter()


def send(limiter: RateLimiter, now: float, *limit_remaining_reset: int) -> None:
    """Send a request; its response has these headers."""
    limiter.on_request(now)
    limiter.on_response(RateLimitHeaders(*limit_remaining_reset), now)


@pytest.mark.parametrize(
    ("later", "free_at"),
    [
        # The own requests left the window at 60 and 61: that of second 1 is the oldest.
        pytest.param([(60.5, 0, 1)], 61.0, id="own memory is exact where headers agree"),
        pytest.param([(61.5, 0, 50)], 111.5, id="later headers override own memory"),
        pytest.param([(110.0, 1, 10), (111.0, 0, 9)], 120.0, id="so do earlier ones"),
    ],
)
def test_next_slot_after_the_limit_is_used_up(limiter, later, free_at):
    for now, remaining, reset in [(0.0, 1, 60), (1.0, 0, 59), *later]:
        send(limiter, now, 2, remaining, reset)
    assert now + limiter.delay(now) == pytest.approx(free_at, abs=0.2)


@pytest.mark.parametrize(("counted", "delay"), [(True, 57), (False, 0)])
def test_request_without_response_uses_a_slot_if_it_may_have_been_counted(limiter, counted, delay):
    send(limiter, 1.0, 2, 1, 60)
    limiter.on_request(2.0)
    limiter.on_no_response(counted=counted)
    assert limiter.delay(4.0) == pytest.approx(delay, abs=0.2)


def test_timeout_of_the_first_request_causes_no_wait(limiter):
    limiter.on_request(0.0)
    limiter.on_no_response(counted=True)
    assert limiter.delay(0.0) == 0


def test_429_without_any_header_waits_exponentially(limiter):
    waits = []
    for _ in range(8):
        limiter.on_request(0.0)
        waits.append(limiter.on_429(None, None, 0.0))
    assert waits == [5, 10, 20, 40, *[MAX_UNSPECIFIED_WAIT_SECONDS] * 4]
    limiter.on_request(0.0)
    limiter.on_response(None, 0.0)
    limiter.on_request(0.0)
    assert limiter.on_429(None, None, 0.0) == 5


def test_second_429_in_a_row_adds_a_second_to_this_wait_and_to_later_ones(limiter):
    for wait in (0.0, 1.0):
        limiter.on_request(0.0)
        assert limiter.on_429(None, 0.0, 0.0) == wait
    send(limiter, 1.0, 10, 9, 60)
    limiter.on_request(2.0)
    assert limiter.on_429(None, 10.0, 2.0) == 11


def test_follows_a_limit_that_changes(limiter):
    for number in range(3):
        send(limiter, float(number), 10, 9 - number, 60)
    send(limiter, 3.0, 4, 0, 57)
    assert 56 <= limiter.delay(3.0) <= 58
    assert limiter.window == 60


def test_a_far_reset_is_not_learned_as_the_window(limiter):
    send(limiter, 0.0, 2, 1, 900_000)
    assert limiter.window is None


def test_pause_delays_the_next_request_only(limiter):
    limiter.pause(20.0, 5.0)
    assert limiter.delay(5.0) == 20
    send(limiter, 25.0, 10, 5, 60)
    assert limiter.delay(25.0) == 0


NOW = datetime(2026, 1, 27, 12, 0, 0, tzinfo=timezone.utc)
EPOCH_NOW = 1_769_515_200


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (("10", "3", "7"), RateLimitHeaders(10, 3, 7)),
        (("x", "3", "7"), None),
        (("", "3", "7"), None),
        (("0", "0", "7"), None),
        (("9", "-1", "7"), None),
        (("9", "1", "-7"), None),
        (("9", "1", "1.5"), None),
        (("9", "1", "9" * 400), None),
        (("9" * 5000, "1", "7"), None),
        (("1" + "0" * 12, "1", "7"), None),
        (("1_0", "1", "7"), None),
        (("\u0661", "1", "7"), None),
        (("10, 10", "1", "7"), None),
    ],
)
def test_headers_are_read_together_or_not_at_all(values, expected):
    headers = limits(*values)
    assert RateLimitHeaders.from_headers(headers, NOW) == expected
    del headers["X-RateLimit-Limit"]
    assert RateLimitHeaders.from_headers(headers, NOW) is None


@pytest.mark.parametrize(
    ("reset", "date", "seconds"),
    [
        (EPOCH_NOW + 28, "", 28),
        ((EPOCH_NOW + 28) * 1000 + 200, "", 29),
        (EPOCH_NOW - 5, "", 0),
        # The clock of this machine is an hour slow.
        (EPOCH_NOW + 3628, "Tue, 27 Jan 2026 13:00:00 GMT", 28),
        (EPOCH_NOW + 28, "no date", 28),
    ],
)
def test_reset_given_as_unix_time_is_relative_to_the_response(reset, date, seconds):
    headers = limits(10, 0, reset) | {"Date": date}
    assert RateLimitHeaders.from_headers(headers, NOW) == RateLimitHeaders(10, 0, seconds)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("28", 28.0),
        (" 28 ", 28.0),
        ("2.5", 2.5),
        ("0", 0.0),
        ("-5", 0.0),
        ("Tue, 27 Jan 2026 12:00:30 GMT", 30.0),
        ("Tue, 27 Jan 2026 12:00:30", 30.0),
        ("Tue, 27 Jan 2026 14:00:30 +0200", 30.0),
        ("Tue, 27 Jan 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("Tue, 99 Jan 2026 12:00:30 GMT", None),
        ("9" * 400, None),
        ("Tue, 27 Jan 99999999999 12:00:30 GMT", None),
        ("Tue, 27 Jan 2026 12:00:30 +9999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after({"Retry-After": value}, NOW) == seconds
