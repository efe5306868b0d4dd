"""The rate limiter against servers with every known way of counting, in simulated time."""

# ruff: noqa: PLR0913, PLR0917 - fixtures and drawn examples are arguments

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

KINDS = ("sliding", "anchored", "aligned")
JITTER = 0.015


@dataclass
class Limiter:
    """A server's limit: N requests per window, counted as one of KINDS.

    Attributes:
        kind: ``sliding`` list; fixed window ``anchored`` at its first request; fixed
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
    anchor: float = -math.inf

    def _live(self, now: float) -> list[float]:
        if self.kind == "sliding":
            begin = now - self.window
            return [t for t in self.counted if t > begin]
        begin = self.anchor if self.kind == "anchored" else now // self.window * self.window
        if self.kind == "anchored" and now >= begin + self.window:
            return []
        return [t for t in self.counted if t >= begin]

    def _end(self, now: float) -> float:
        live = self._live(now)
        if self.kind == "sliding":
            return live[0] + self.window if live else now
        if self.kind == "anchored":
            return self.anchor + self.window if live else now
        return (now // self.window + 1) * self.window

    def request(self, arrival: float) -> bool:
        """Count a request, if the limit permits it."""
        live = self._live(arrival)
        if len(live) >= self.limit:
            return False
        if self.kind == "anchored" and not live:
            self.anchor = arrival
        self.counted = [*live, arrival]
        return True

    def free_from(self, arrival: float) -> float:
        """Return the earliest time, not before arrival, at which a request is permitted."""
        live = self._live(arrival)
        if len(live) < self.limit:
            return arrival
        if self.kind == "sliding":
            return live[-self.limit] + self.window + 1e-6
        return self._end(arrival)

    def headers(self, now: float) -> RateLimitHeaders:
        """Return the headers as of a time."""
        left = max(0.0, self._end(now) - now)
        seconds = math.floor(left) if self.floor else math.ceil(left - 1e-9)
        return RateLimitHeaders(self.limit, max(0, self.limit - len(self._live(now))), seconds)


@dataclass
class ScanTiming:
    """How long a scan took, and which of its requests got a 429."""

    seconds: float
    rejected: list[int]
    waited: float
    requests: int


def scan(
    server: Limiter,
    pages: int,
    *,
    latency: tuple[float, float],
    seed: int = 0,
    start: float = 0.0,
    limiter: RateLimiter | None = None,
    others: float = 0.0,
    headers: bool = True,
) -> ScanTiming:
    """Fetch pages with the limiter; another client sends ``others`` requests a second."""
    draw = random.Random(seed)
    limiter = limiter or RateLimiter()
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
    return ScanTiming(now - start, rejected, waited, requests)


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


latencies = st.tuples(st.floats(0, 6), st.floats(0, 6)).map(lambda pair: tuple(sorted(pair)))
seeds = st.integers(0, 2**32)


@given(
    kind=st.sampled_from(KINDS),
    limit=st.integers(1, 20),
    window=st.integers(1, 120),
    latency=latencies,
    seed=seeds,
    start=st.floats(0, 1000),
)
def test_gets_no_429_as_the_only_client(kind, limit, window, latency, seed, start):
    server = Limiter(kind, limit, window)
    assert not scan(server, 3 * limit + 5, latency=latency, seed=seed, start=start).rejected


@given(
    kind=st.sampled_from(KINDS),
    limit=st.integers(1, 20),
    window=st.integers(1, 120),
    latency=latencies,
    seed=seeds,
    earlier=st.lists(st.floats(0, 200), max_size=30),
)
def test_restart_gets_at_most_one_429_at_its_first_request(
    kind, limit, window, latency, seed, earlier
):
    server = Limiter(kind, limit, window)
    for arrival in sorted(earlier):
        server.request(arrival)
    timing = scan(server, 3 * limit + 5, latency=latency, seed=seed, start=200.0)
    assert timing.rejected in ([], [1])


@given(
    kind=st.sampled_from(KINDS),
    limit=st.integers(2, 20),
    window=st.integers(1, 120),
    latency=latencies,
    seed=seeds,
    others=st.floats(0.01, 0.5),
)
def test_another_client_with_the_same_key_causes_few_429s(
    kind, limit, window, latency, seed, others
):
    pages = 2 * limit + 5
    timing = scan(
        Limiter(kind, limit, window),
        pages,
        latency=latency,
        seed=seed,
        # It leaves at least half of the limit.
        others=others * limit / window,
    )
    assert len(timing.rejected) <= 8


@given(
    kind=st.sampled_from(KINDS),
    limit=st.integers(1, 20),
    window=st.integers(1, 120),
    latency=latencies,
    seed=seeds,
    at_end=st.booleans(),
    floor=st.booleans(),
)
def test_headers_that_are_a_second_off_cause_few_429s(
    kind, limit, window, latency, seed, at_end, floor
):
    pages = 3 * limit + 5
    server = Limiter(kind, limit, window, at_end=at_end, floor=floor)
    timing = scan(server, pages, latency=latency, seed=seed)
    # After a 429 the own memory is not used for ten windows: short ones pass quickly.
    assert len(timing.rejected) <= (5 if window >= 10 else pages)


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


@given(kind=st.sampled_from(KINDS), latency=latencies, seed=seeds, pages=st.integers(1, 30))
def test_without_headers_there_is_no_wait(kind, latency, seed, pages):
    server = Limiter(kind, 1000, 60)
    assert scan(server, pages, latency=latency, seed=seed, headers=False).waited == 0


@given(
    kind=st.sampled_from(KINDS),
    limit=st.integers(2, 20),
    window=st.integers(1, 120),
    seed=seeds,
)
def test_does_not_wait_while_a_request_is_free(kind, limit, window, seed):
    assert scan(Limiter(kind, limit, window), limit, latency=(0, 0.1), seed=seed).waited == 0


def burst(limiter: RateLimiter, start: float, resets: list[int]) -> None:
    """Send two requests, a second apart, at a limit of 2, with these resets."""
    for number, reset in enumerate(resets):
        limiter.on_request(start + number)
        limiter.on_response(RateLimitHeaders(2, 1 - number, reset), start + number)


def test_own_memory_is_exact_where_headers_agree():
    limiter = RateLimiter()
    burst(limiter, 0.0, [60, 59])
    limiter.on_request(60.5)
    limiter.on_response(RateLimitHeaders(2, 0, 1), 63.0)
    assert 63.0 + limiter.delay(63.0) == pytest.approx(63.0, abs=0.2)


def test_later_headers_override_own_memory():
    limiter = RateLimiter()
    burst(limiter, 0.0, [60, 59])
    limiter.on_request(61.0)
    # The oldest own request is that of second 1, but the next slot is free at 111.
    limiter.on_response(RateLimitHeaders(2, 0, 50), 61.5)
    assert 61.5 + limiter.delay(61.5) == pytest.approx(111.5, abs=0.1)


def test_earlier_headers_override_own_memory():
    limiter = RateLimiter()
    burst(limiter, 0.0, [60, 59])
    burst(limiter, 110.0, [10, 9])
    assert 111.0 + limiter.delay(111.0) == pytest.approx(120.0, abs=0.1)


def test_request_that_may_have_been_counted_uses_a_slot():
    limiter = RateLimiter()
    limiter.on_request(0.0)
    limiter.on_response(RateLimitHeaders(2, 1, 60), 1.0)
    limiter.on_request(2.0)
    limiter.on_no_response(counted=True)
    assert limiter.delay(3.0) == pytest.approx(57, abs=0.2)


def test_request_that_was_not_sent_uses_no_slot():
    limiter = RateLimiter()
    limiter.on_request(0.0)
    limiter.on_response(RateLimitHeaders(2, 1, 60), 1.0)
    limiter.on_request(2.0)
    limiter.on_no_response(counted=False)
    assert limiter.delay(3.0) == 0


def test_timeout_of_the_first_request_causes_no_wait():
    limiter = RateLimiter()
    limiter.on_request(0.0)
    limiter.on_no_response(counted=True)
    assert limiter.delay(0.0) == 0


def test_429_waits_for_retry_after():
    limiter = RateLimiter()
    limiter.on_request(0.0)
    assert limiter.on_429(RateLimitHeaders(10, 0, 30), 17.0, 1.0) == pytest.approx(17)
    assert limiter.delay(1.0) == pytest.approx(17)


def test_429_without_retry_after_waits_for_the_reset():
    limiter = RateLimiter()
    limiter.on_request(0.0)
    assert limiter.on_429(RateLimitHeaders(10, 0, 30), None, 1.0) == pytest.approx(30)


def test_429_without_any_header_waits_exponentially():
    limiter = RateLimiter()
    waits = []
    for _ in range(8):
        limiter.on_request(0.0)
        waits.append(limiter.on_429(None, None, 0.0))
    assert waits == sorted(waits)
    assert waits[0] < waits[-1] == MAX_UNSPECIFIED_WAIT_SECONDS
    limiter.on_request(0.0)
    limiter.on_response(None, 0.0)
    limiter.on_request(0.0)
    assert limiter.on_429(None, None, 0.0) == waits[0]


def test_follows_a_limit_that_changes():
    limiter = RateLimiter()
    for number in range(3):
        limiter.on_request(float(number))
        limiter.on_response(RateLimitHeaders(10, 9 - number, 60), float(number))
    limiter.on_request(3.0)
    limiter.on_response(RateLimitHeaders(4, 0, 57), 3.0)
    assert 56 <= limiter.delay(3.0) <= 58
    assert limiter.window == 60


NOW = datetime(2026, 1, 27, 12, 0, 0, tzinfo=timezone.utc)
EPOCH_NOW = 1_769_515_200


def header_values(limit: str, remaining: str, reset: str) -> dict[str, str]:
    names = ("Limit", "Remaining", "Reset")
    return {
        f"X-RateLimit-{name}": value
        for name, value in zip(names, (limit, remaining, reset), strict=True)
    }


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
    assert RateLimitHeaders.from_headers(header_values(*values), NOW) == expected


def test_headers_are_optional():
    assert RateLimitHeaders.from_headers({}, NOW) is None
    headers = header_values("10", "3", "7")
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
    headers = header_values("10", "0", str(reset)) | {"Date": date}
    assert RateLimitHeaders.from_headers(headers, NOW) == RateLimitHeaders(10, 0, seconds)


def test_a_far_reset_is_not_learned_as_the_window():
    limiter = RateLimiter()
    limiter.on_request(0.0)
    limiter.on_response(RateLimitHeaders(2, 1, 900_000), 0.0)
    assert limiter.window is None


def test_pause_delays_the_next_request_only():
    limiter = RateLimiter()
    limiter.pause(20.0, 5.0)
    assert limiter.delay(5.0) == 20
    limiter.on_request(25.0)
    limiter.on_response(RateLimitHeaders(10, 5, 60), 26.0)
    assert limiter.delay(26.0) == 0


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


def test_retry_after_is_optional():
    assert retry_after({}, NOW) is None


def test_retry_after_as_a_date_is_relative_to_the_response():
    headers = {
        "Retry-After": "Tue, 27 Jan 2026 09:00:30 GMT",
        "Date": "Tue, 27 Jan 2026 09:00:00 GMT",
    }
    assert retry_after(headers, NOW) == 30


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "X-RateLimit-Limit",
                "X-RateLimit-Remaining",
                "X-RateLimit-Reset",
                "Retry-After",
                "Date",
            ]
        ),
        st.text() | st.integers().map(str),
    )
)
def test_arbitrary_header_values_are_read_or_ignored(headers):
    limiter = RateLimiter()
    limiter.on_request(0.0)
    rate_limit, wait = RateLimitHeaders.from_headers(headers, NOW), retry_after(headers, NOW)
    assert wait is None or 0 <= wait < math.inf
    assert limiter.on_429(rate_limit, wait, 1.0) >= 0
    limiter.on_request(2.0)
    limiter.on_response(rate_limit, 3.0)
    assert 0 <= limiter.delay(3.0) < math.inf
