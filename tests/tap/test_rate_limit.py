"""The budget against servers that count in every way that is known, in simulated time."""

# ruff: noqa: PLR0913, PLR0917 - fixtures and drawn examples are arguments

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync.budget import MAX_BLIND_WAIT, RateLimit, RequestBudget, retry_after

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
        """Count a request, if there is room."""
        live = self._live(arrival)
        if len(live) >= self.limit:
            return False
        if self.kind == "anchored" and not live:
            self.anchor = arrival
        self.counted = [*live, arrival]
        return True

    def free_from(self, arrival: float) -> float:
        """Return the first instant, not before arrival, at which a request has room."""
        live = self._live(arrival)
        if len(live) < self.limit:
            return arrival
        if self.kind == "sliding":
            return live[-self.limit] + self.window + 1e-6
        return self._end(arrival)

    def headers(self, now: float) -> RateLimit:
        """Return the headers as of an instant."""
        left = max(0.0, self._end(now) - now)
        seconds = math.floor(left) if self.floor else math.ceil(left - 1e-9)
        return RateLimit(self.limit, max(0, self.limit - len(self._live(now))), seconds)


@dataclass
class Walked:
    """What a walk took."""

    seconds: float
    refusals: list[int]
    waited: float
    requests: int


def walk(
    server: Limiter,
    pages: int,
    *,
    latency: tuple[float, float],
    seed: int = 0,
    start: float = 0.0,
    budget: RequestBudget | None = None,
    others: float = 0.0,
    headers: bool = True,
) -> Walked:
    """Walk pages with the budget; ``others`` requests a second of another client."""
    draw = random.Random(seed)
    budget = budget or RequestBudget()
    now, waited, got, requests = start, 0.0, 0, 0
    refusals: list[int] = []
    next_other = now + draw.expovariate(others) if others else math.inf
    while got < pages:
        delay = budget.delay(now)
        now, waited = now + delay, waited + delay
        budget.sent(now)
        requests += 1
        assert requests < pages * 10 + 50, "no endless loop"
        arrival = now + draw.uniform(0, JITTER)
        while next_other <= arrival:
            server.request(next_other)
            next_other += draw.expovariate(others)
        allowed = server.request(arrival)
        now = arrival + (draw.uniform(*latency) if allowed else 0.0)
        facts = server.headers(now if server.at_end else arrival) if headers else None
        now += draw.uniform(0, JITTER)
        if allowed:
            got += 1
            budget.answered(facts, now)
        else:
            refusals.append(requests)
            budget.refused(facts, float(facts.reset) if facts else None, now)
    return Walked(now - start, refusals, waited, requests)


def oracle(
    server: Limiter, pages: int, *, latency: tuple[float, float], seed: int = 0, start: float = 0.0
) -> float:
    """Return the seconds that a client needs who sees the server's list."""
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
def test_no_request_is_refused_where_nobody_else_asks(kind, limit, window, latency, seed, start):
    """A walk alone never meets a 429, whatever the way of counting."""
    server = Limiter(kind, limit, window)
    assert not walk(server, 3 * limit + 5, latency=latency, seed=seed, start=start).refusals


@given(
    kind=st.sampled_from(KINDS),
    limit=st.integers(1, 20),
    window=st.integers(1, 120),
    latency=latencies,
    seed=seeds,
    earlier=st.lists(st.floats(0, 200), max_size=30),
)
def test_requests_of_an_earlier_process_cost_at_most_the_first_request(
    kind, limit, window, latency, seed, earlier
):
    """Only the first request, which knows nothing yet, may be refused after a restart."""
    server = Limiter(kind, limit, window)
    for arrival in sorted(earlier):
        server.request(arrival)
    walked = walk(server, 3 * limit + 5, latency=latency, seed=seed, start=200.0)
    assert walked.refusals in ([], [1])


@given(
    kind=st.sampled_from(KINDS),
    limit=st.integers(2, 20),
    window=st.integers(1, 120),
    latency=latencies,
    seed=seeds,
    others=st.floats(0.01, 0.5),
)
def test_with_another_client_refusals_are_few_and_the_walk_ends(
    kind, limit, window, latency, seed, others
):
    """Another client with the same key may cause a 429, but no loop of them."""
    pages = 2 * limit + 5
    walked = walk(
        Limiter(kind, limit, window),
        pages,
        latency=latency,
        seed=seed,
        # It leaves at least half of the limit.
        others=others * limit / window,
    )
    assert len(walked.refusals) <= 8


@given(
    kind=st.sampled_from(KINDS),
    limit=st.integers(1, 20),
    window=st.integers(1, 120),
    latency=latencies,
    seed=seeds,
    at_end=st.booleans(),
    floor=st.booleans(),
)
def test_a_server_that_rounds_down_or_computes_late_refuses_rarely(
    kind, limit, window, latency, seed, at_end, floor
):
    """Headers that are off by the reply's time or a second cost few 429s and no loop."""
    pages = 3 * limit + 5
    server = Limiter(kind, limit, window, at_end=at_end, floor=floor)
    walked = walk(server, pages, latency=latency, seed=seed)
    # Under a limit of one request a second, the memory is distrusted for ten seconds only.
    assert len(walked.refusals) <= (5 if window >= 10 else pages)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("latency", [(0, 0), (0.5, 0.8), (1, 1), (2, 3.5), (4.8, 5), (0, 5)])
@pytest.mark.parametrize("phase", [0.0, 13.7, 31.2, 59.4])
def test_the_walk_takes_the_pages_that_the_server_allows(kind, latency, phase):
    """Thirty pages under 10 per 60 s take no more than 1 % longer than they have to."""
    for seed in range(5):
        walked = walk(Limiter(kind, 10, 60), 30, latency=latency, seed=seed, start=phase)
        best = oracle(Limiter(kind, 10, 60), 30, latency=latency, seed=seed, start=phase)
        assert not walked.refusals
        assert best / walked.seconds >= 0.99


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("latency", [(0, 0), (1, 1), (2, 3.5), (4.8, 5), (0, 5)])
def test_a_restart_in_the_middle_costs_seconds_not_windows(kind, latency):
    """A new process knows nothing of the requests before it, and loses little by that."""
    for seed in range(5):
        for pages_before in (3, 10, 17):
            server, ideal = Limiter(kind, 10, 60), Limiter(kind, 10, 60)
            first = walk(server, pages_before, latency=latency, seed=seed)
            oracle(ideal, pages_before, latency=latency, seed=seed)
            begin = first.seconds + 2.0
            walked = walk(server, 30, latency=latency, seed=seed, start=begin)
            best = oracle(ideal, 30, latency=latency, seed=seed, start=begin)
            assert walked.refusals in ([], [1])
            assert best / walked.seconds >= 0.93


@given(kind=st.sampled_from(KINDS), latency=latencies, seed=seeds, pages=st.integers(1, 30))
def test_without_headers_nothing_is_waited_for(kind, latency, seed, pages):
    """No headers: no invented pacing."""
    server = Limiter(kind, 1000, 60)
    assert walk(server, pages, latency=latency, seed=seed, headers=False).waited == 0


@given(
    kind=st.sampled_from(KINDS),
    limit=st.integers(2, 20),
    window=st.integers(1, 120),
    seed=seeds,
)
def test_no_time_is_slept_while_a_request_is_free(kind, limit, window, seed):
    """The first N requests of a fresh key go out at once."""
    assert walk(Limiter(kind, limit, window), limit, latency=(0, 0.1), seed=seed).waited == 0


def burst(budget: RequestBudget, start: float, resets: list[int]) -> None:
    """Send two requests, a second apart, under a limit of 2, with these resets."""
    for number, reset in enumerate(resets):
        budget.sent(start + number)
        budget.answered(RateLimit(2, 1 - number, reset), start + number)


def test_the_own_memory_is_exact_where_it_agrees_with_the_headers():
    """The slot comes back one window after its request, not a rounded second later."""
    budget = RequestBudget()
    burst(budget, 0.0, [60, 59])
    budget.sent(60.5)
    budget.answered(RateLimit(2, 0, 1), 63.0)
    assert 63.0 + budget.delay(63.0) == pytest.approx(63.0, abs=0.2)


def test_headers_that_say_later_than_the_own_memory_are_believed():
    """Another client took the slot that ours would have got back."""
    budget = RequestBudget()
    burst(budget, 0.0, [60, 59])
    budget.sent(61.0)
    # Our oldest counted request is that of second 1, but the next slot comes at 111.
    budget.answered(RateLimit(2, 0, 50), 61.5)
    assert 61.5 + budget.delay(61.5) == pytest.approx(111.5, abs=0.1)


def test_headers_that_say_earlier_than_the_own_memory_are_believed():
    """A fixed window begins anew for all its requests at once, also late ones."""
    budget = RequestBudget()
    burst(budget, 0.0, [60, 59])
    burst(budget, 110.0, [10, 9])
    assert 111.0 + budget.delay(111.0) == pytest.approx(120.0, abs=0.1)


def test_a_request_that_may_have_been_counted_is_taken_off():
    """After a timeout the budget assumes the worse."""
    budget = RequestBudget()
    budget.sent(0.0)
    budget.answered(RateLimit(2, 1, 60), 1.0)
    budget.sent(2.0)
    budget.unanswered(counted=True)
    assert budget.delay(3.0) == pytest.approx(57, abs=0.2)


def test_a_request_that_never_left_costs_nothing():
    """A refused connection is no request."""
    budget = RequestBudget()
    budget.sent(0.0)
    budget.answered(RateLimit(2, 1, 60), 1.0)
    budget.sent(2.0)
    budget.unanswered(counted=False)
    assert budget.delay(3.0) == 0


def test_an_unanswered_request_without_any_knowledge_changes_nothing():
    """A first request that times out does not block the second."""
    budget = RequestBudget()
    budget.sent(0.0)
    budget.unanswered(counted=True)
    assert budget.delay(0.0) == 0


def test_a_refusal_is_waited_out_as_long_as_it_says():
    """``Retry-After`` goes before the window."""
    budget = RequestBudget()
    budget.sent(0.0)
    assert budget.refused(RateLimit(10, 0, 30), 17.0, 1.0) == pytest.approx(17)
    assert budget.delay(1.0) == pytest.approx(17)


def test_a_refusal_without_retry_after_uses_the_reset():
    """The headers are the next best word."""
    budget = RequestBudget()
    budget.sent(0.0)
    assert budget.refused(RateLimit(10, 0, 30), None, 1.0) == pytest.approx(30)


def test_refusals_that_say_nothing_are_waited_out_longer_and_longer_up_to_a_bound():
    """Blind pauses grow and stop growing; a good answer resets them."""
    budget = RequestBudget()
    waits = []
    for _ in range(8):
        budget.sent(0.0)
        waits.append(budget.refused(None, None, 0.0))
    assert waits == sorted(waits)
    assert waits[0] < waits[-1] == MAX_BLIND_WAIT
    budget.sent(0.0)
    budget.answered(None, 0.0)
    budget.sent(0.0)
    assert budget.refused(None, None, 0.0) == waits[0]


def test_a_limit_that_changes_is_followed():
    """The server may lower or raise its limit in the middle."""
    budget = RequestBudget()
    for number in range(3):
        budget.sent(float(number))
        budget.answered(RateLimit(10, 9 - number, 60), float(number))
    budget.sent(3.0)
    budget.answered(RateLimit(4, 0, 57), 3.0)
    assert 56 <= budget.delay(3.0) <= 58
    assert budget.window == 60


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "7"}, True),
        ({"X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "7"}, False),
        ({"X-RateLimit-Limit": "x", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "7"}, False),
        ({"X-RateLimit-Limit": "0", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "7"}, False),
        (
            {"X-RateLimit-Limit": "9", "X-RateLimit-Remaining": "-1", "X-RateLimit-Reset": "7"},
            False,
        ),
        (
            {"X-RateLimit-Limit": "9", "X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "-7"},
            False,
        ),
        (
            {"X-RateLimit-Limit": "9", "X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "1.5"},
            False,
        ),
        ({}, False),
    ],
)
def test_headers_are_read_whole_or_not_at_all(headers, expected):
    """Half a set of headers is none."""
    assert RateLimit.from_headers(headers) == (RateLimit(10, 3, 7) if expected else None)


NOW = datetime(2026, 1, 27, 12, 0, 0, tzinfo=timezone.utc)


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
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value, seconds):
    """Both spellings of the standard are read, garbage is not."""
    assert retry_after({"Retry-After": value}, NOW) == seconds


def test_no_retry_after_is_none():
    """A missing header says nothing."""
    assert retry_after({}, NOW) is None
