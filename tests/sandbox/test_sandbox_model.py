"""The API as a pure function of request and time: what needs a clock of its own."""

from __future__ import annotations

import json

import pytest
from datasync_sandbox.testing import ApiConfig, ApiModel, ApiOptions, ArrivalRate, Feed, Refused

KEY = {"X-API-Key": "sandbox-key"}
START = 1_700_000_000.0


def ask(model, now=START, path="/api/v1/events", headers=KEY, **query):
    texts = {name: str(value) for name, value in query.items() if value is not None}
    return model.handle("GET", path, texts, headers, now=now)


def page(model, now=START, **query):
    response = ask(model, now, **query)
    assert response.status == 200, response
    return json.loads(response.body)


def code(response):
    return response.status, json.loads(response.body)["code"]


def test_a_cursor_lives_from_the_arrival_of_its_request():
    model = ApiModel(Feed(50), ApiConfig(latency=(4.2, 4.2)))
    first = page(model, limit=10)["pagination"]
    assert first["cursorExpiresIn"] == 115  # 120 less the reply time, in whole seconds
    assert (
        page(model, START + 119.9, limit=10, cursor=first["nextCursor"])["meta"]["returned"] == 10
    )
    late = ask(model, START + 120, limit=10, cursor=first["nextCursor"])
    assert code(late) == (400, "CURSOR_EXPIRED")
    later = ask(model, START + 120 + 90, cursor=first["nextCursor"])
    assert json.loads(later.body)["message"] == "Cursor expired 2 minute(s) ago"


def test_an_expired_cursor_spends_a_request():
    model = ApiModel(Feed(50))
    cursor = page(model, limit=10)["pagination"]["nextCursor"]
    assert ask(model, START + 121, cursor=cursor).headers["X-RateLimit-Remaining"] == "9"
    assert ask(model, START + 122).headers["X-RateLimit-Remaining"] == "8"


def test_slots_come_back_one_at_a_time():
    model = ApiModel(Feed(50))
    for second in range(10):
        ask(model, START + second)
    assert ask(model, START + 20).headers["Retry-After"] == "40"
    assert ask(model, START + 60).status == 200
    assert ask(model, START + 60.5).status == 429
    assert ask(model, START + 61).status == 200


def test_a_fixed_window_gives_all_back_at_once():
    model = ApiModel(Feed(50), ApiConfig(window_kind="fixed"))
    for second in range(10):
        ask(model, START + second)
    assert ask(model, START + 59.9).status == 429
    assert [ask(model, START + 60).status for _ in range(11)] == [200] * 10 + [429]


def test_latency_follows_from_the_seed():
    runs = [
        [ask(ApiOptions(events=9, latency="0-5", seed=seed).make_model()).delay for _ in range(2)]
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]
    model = ApiOptions(events=9, latency="1-5", limit=99).make_model()
    delays = [ask(model).delay for _ in range(50)]
    assert len(set(delays)) == 50
    assert all(1 <= delay <= 5 for delay in delays)


def test_a_key_dies_in_time_and_by_requests():
    model = ApiModel(Feed(50), ApiConfig(key_lifetime=100))
    assert [ask(model, START + after).status for after in (0, 99, 100)] == [200, 200, 401]
    model = ApiModel(Feed(50), ApiConfig(key_requests=3))
    assert [ask(model, START).status for _ in range(4)] == [200, 200, 200, 401]


def test_a_refused_connection_does_not_use_up_a_key():
    model = ApiModel(Feed(50), ApiConfig(key_requests=2, key_lifetime=100), ["refused@1"])
    assert ask(model, START - 99) == Refused(1.0)
    assert [ask(model, START + after).status for after in (0, 99, 99)] == [200, 200, 401]


def test_waiting_as_long_as_a_429_says_is_enough():
    model = ApiModel(Feed(50), ApiConfig(limit=1000), ["429=2@1"])
    ask(model)
    # A crumb of clock arithmetic more than a second before the end.
    early = START + 1 - 4e-7
    refused = ask(model, early)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    assert ask(model, early + 1).status == 200


@pytest.mark.parametrize("kind", ["exact", "empty"])
def test_both_ways_to_end(kind):
    model = ApiModel(Feed(40), ApiConfig(last_page=kind))
    sizes, cursor, more = [], None, True
    while more:
        got = page(model, limit=20, cursor=cursor)
        cursor, more = got["pagination"]["nextCursor"], got["pagination"]["hasMore"]
        sizes.append(got["meta"]["returned"])
    assert sizes == ([20, 20] if kind == "exact" else [20, 20, 0])
    assert cursor is None


def test_an_empty_feed_ends_at_once():
    for kind in ("exact", "empty"):
        got = page(ApiModel(Feed(0), ApiConfig(last_page=kind)))
        assert got["data"] == []
        assert got["pagination"]["hasMore"] is False


def test_events_arrive_with_the_clock():
    model = ApiModel(Feed(20, arrival_rate=ArrivalRate(rate=0.5)))
    assert page(model)["meta"]["total"] == 20
    assert page(model, START + 9)["meta"]["total"] == 24
    grown = ApiModel(Feed(20, arrival_rate=ArrivalRate(rate=0.5)), started=START - 100)
    assert page(grown)["meta"]["total"] == 70


def test_a_grown_feed_is_no_cache_hit():
    model = ApiModel(Feed(20, arrival_rate=ArrivalRate(rate=1)))
    ask(model)
    assert ask(model, START + 0.5).headers["X-Cache"] == "HIT"
    assert ask(model, START + 1).headers["X-Cache"] == "MISS"
    still = ApiModel(Feed(20))
    hits = [ask(still, START + after).headers["X-Cache"] for after in (0, 29.9, 30)]
    assert hits == ["MISS", "HIT", "MISS"]


def test_the_same_requests_at_the_same_times_have_the_same_answers():
    def run():
        model = ApiOptions(events=300, latency="0-3", fault=("503@2x2", "reset@3")).make_model()
        outcomes, cursor = [], None
        for step in range(9):
            outcome = ask(model, START + step, limit=50, cursor=cursor)
            outcomes.append(outcome)
            if getattr(outcome, "status", 0) == 200:
                cursor = json.loads(outcome.body)["pagination"]["nextCursor"]
        return outcomes

    assert run() == run()


def test_a_cursor_outlives_a_restart_of_the_server():
    cursor = page(ApiModel(Feed(50)), limit=10)["pagination"]["nextCursor"]
    assert page(ApiModel(Feed(50)), START + 5, cursor=cursor)["meta"]["returned"] == 40
    assert code(ask(ApiModel(Feed(50, seed=2)), cursor=cursor))[1] == "CURSOR_INVALID_FORMAT"
