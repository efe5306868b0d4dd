"""The API as a function of request and time, point by point of its contract."""

from __future__ import annotations

import json
import re

import pytest
from datasync_sandbox.testing import Refused

from tests.sandbox.sandbox_helpers import KEY, START, api, ask, code, page

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture
def model():
    return api(events=500)


@pytest.fixture
def unlimited():
    return api(events=12_000, limit=100_000)


def remaining(model) -> str:
    return ask(model).headers["X-RateLimit-Remaining"]


@pytest.mark.parametrize(
    ("limit", "size"),
    [
        *((None, 100), (7, 7), (5000, 5000), (10_000, 5000), (999_999_999, 5000)),
        *(("0", 100), ("-5", 100), ("many", 100), ("", 100), ("7.5", 100), ("9" * 30, 100)),
    ],
)
def test_limit_defaults_to_100_and_is_capped_at_5000(unlimited, limit, size):
    got = page(unlimited, limit=limit)
    assert len(got["data"]) == got["meta"]["returned"] == got["pagination"]["limit"] == size


def test_other_parameters_are_ignored(unlimited):
    plain = page(unlimited, limit=5)["data"]
    other = {"offset": 3, "page": 2, "sort": "asc", "fields": "id", "since": "2030"}
    assert page(unlimited, limit=5, **other)["data"] == plain


@pytest.mark.parametrize(
    ("events", "last_page", "expected"),
    [
        *((40, "exact", [20, 20]), (40, "empty", [20, 20, 0])),
        *((0, "exact", [0]), (0, "empty", [0])),
    ],
)
def test_scan_returns_each_event_once_and_ends_as_configured(events, last_page, expected):
    model = api(events=events, last_page=last_page)
    sizes, found, cursor, more = [], [], None, True
    while more:
        got = page(model, limit=20, cursor=cursor)
        cursor, more = got["pagination"]["nextCursor"], got["pagination"]["hasMore"]
        sizes.append(got["meta"]["returned"])
        found += [event["id"] for event in got["data"]]
        for place, event in enumerate(got["data"]):
            assert isinstance(event["timestamp"], str if place % 3 else int)
        assert got["meta"]["total"] == events
        assert ("cursorExpiresIn" in got["pagination"]) == more
    assert sizes == expected
    assert cursor is None
    assert found == [row.id for row in model.feed.rows()]


def test_cursor_may_be_used_again_while_it_lives_from_the_arrival_of_its_request():
    model = api(events=50, latency="4.2")
    first = page(model, limit=10)["pagination"]
    assert first["cursorExpiresIn"] == 115  # 120 less the reply time, in whole seconds
    cursor = first["nextCursor"]
    again = [page(model, START + at, limit=10, cursor=cursor)["data"] for at in (5, 119.9)]
    assert again[0] == again[1]
    assert len(again[0]) == 10
    expired = ask(model, START + 120, cursor=cursor)
    assert code(expired) == (400, "CURSOR_EXPIRED")
    assert expired.headers["X-RateLimit-Remaining"] == "8"  # it is counted
    later = ask(model, START + 120 + 90, cursor=cursor)
    assert json.loads(later.body)["message"] == "Cursor expired 2 minute(s) ago"


def test_cursor_survives_a_restart_of_the_server():
    cursor = page(api(events=50), limit=10)["pagination"]["nextCursor"]
    assert page(api(events=50), START + 5, cursor=cursor)["meta"]["returned"] == 40
    assert code(ask(api(events=50, seed=2), cursor=cursor))[1] == "CURSOR_INVALID_FORMAT"


def test_malformed_cursor_is_counted(model):
    refused = ask(model, cursor="eyJpZCI6ImUifQ")
    assert code(refused) == (400, "CURSOR_INVALID_FORMAT")
    assert refused.headers["X-RateLimit-Remaining"] == "9"


def test_request_ids_are_unique_and_in_the_body(unlimited):
    replies = [ask(unlimited, limit=1) for _ in range(3)]
    ids = [reply.headers["X-Request-ID"] for reply in replies]
    assert len(set(ids)) == 3
    assert all(UUID4.fullmatch(request_id) for request_id in ids)
    assert [json.loads(reply.body)["meta"]["requestId"] for reply in replies] == ids


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}, {"X-API-Key": ""}])
def test_invalid_key_is_refused_and_not_counted(model, headers):
    refused = ask(model, headers=headers)
    assert code(refused) == (401, "UNAUTHORIZED")
    assert set(json.loads(refused.body)) == {"error", "message", "code"}
    assert remaining(model) == "9"


def test_key_may_be_a_parameter(model):
    assert ask(model, headers={}, api_key="sandbox-key").status == 200


def test_key_expires_by_time_or_by_requests():
    model = api(events=50, key_lifetime=100)
    assert [ask(model, START + after).status for after in (0, 99, 100)] == [200, 200, 401]
    model = api(events=50, key_requests=3)
    assert [ask(model).status for _ in range(4)] == [200, 200, 200, 401]


def test_refused_connection_does_not_use_the_key():
    model = api("refused@1", events=50, key_requests=2, key_lifetime=100)
    assert ask(model, START - 99) == Refused(1.0)
    assert [ask(model, START + after).status for after in (0, 99, 99)] == [200, 200, 401]


@pytest.mark.parametrize(
    ("method", "path", "expected", "left"),
    [
        ("GET", "/events/bulk", (404, "EVENT_NOT_FOUND"), "8"),
        ("GET", "/events/a509658f-2a52-4d5d-9d13-4cbddfd91fe9", (404, "EVENT_NOT_FOUND"), "8"),
        ("POST", "/events/bulk", (500, "INTERNAL_ERROR"), "9"),
        ("GET", "/users", (404, "ENDPOINT_NOT_FOUND"), "9"),
        ("DELETE", "/events", (404, "ENDPOINT_NOT_FOUND"), "9"),
        ("GET", "/events/a/b", (404, "ENDPOINT_NOT_FOUND"), "9"),
    ],
)
def test_other_endpoints_are_errors(model, method, path, expected, left):
    assert code(ask(model, path=path, method=method)) == expected
    assert remaining(model) == left


@pytest.mark.parametrize("path", ["/events/bulk", "/events"])
def test_endpoints_need_the_key_and_share_the_rate_limit(path):
    model = api(events=5, limit=1)
    assert ask(model, path=path, headers={}).status == 401
    ask(model)
    assert ask(model, path=path).status == 429


def test_manifest_is_not_counted(model):
    for _ in range(12):
        assert ask(model, path="", headers={}).status == 200
    assert remaining(model) == "9"


def test_eleventh_request_is_refused_and_not_counted(model):
    left = [remaining(model) for _ in range(10)]
    assert left == [str(number) for number in range(9, -1, -1)]
    for after in (20, 30):
        refused = ask(model, START + after)
        seconds = 60 - after
        assert refused.status == 429
        assert refused.headers["Retry-After"] == str(seconds)
        assert refused.headers["X-RateLimit-Reset"] == str(seconds)
        assert refused.headers["X-RateLimit-Remaining"] == "0"
        assert json.loads(refused.body) == {
            "error": "Too Many Requests",
            "message": f"Rate limit exceeded. Try again in {seconds} seconds.",
            "code": "RATE_LIMIT_EXCEEDED",
            "rateLimit": {"limit": 10, "remaining": 0, "reset": seconds, "retryAfter": seconds},
        }
        assert "X-Cache" not in refused.headers
    stats = model.stats()
    assert (stats["requests"], stats["rate_limited"], stats["pages"]) == (12, 2, 10)
    assert stats["arrivals"] == [START] * 10 + [START + 20, START + 30]


def test_latency_is_drawn_from_its_range():
    model = api(events=9, latency="1-5", limit=99)
    drawn = [ask(model).delay for _ in range(50)]
    assert len(set(drawn)) == 50
    assert all(1 <= delay <= 5 for delay in drawn)


def test_events_arrive_with_the_clock():
    model = api(events=20, arrivals=0.5)
    assert page(model)["meta"]["total"] == 20
    assert page(model, START + 9)["meta"]["total"] == 24
    earlier = api(events=20, arrivals=0.5, started_at=START - 100)
    assert page(earlier)["meta"]["total"] == 70


def test_same_requests_at_the_same_times_have_the_same_outcomes():
    def outcomes():
        model = api("503@2x2", "reset@3", events=300, latency="0-3")
        found, cursor = [], None
        for step in range(9):
            found.append(ask(model, START + step, limit=50, cursor=cursor))
            if getattr(found[-1], "status", 0) == 200:
                cursor = json.loads(found[-1].body)["pagination"]["nextCursor"]
        return found

    assert outcomes() == outcomes()


def test_log_holds_no_key(model):
    ask(model, headers=KEY, api_key="sandbox-key")
    assert "sandbox-key" not in json.dumps(model.stats())
