"""The API over real HTTP, point by point of its contract."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from datasync_sandbox import testing
from datasync_sandbox.testing import running_api

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "recorded"
NEEDS_RECORDINGS = pytest.mark.skipif(
    not (RECORDED / "exchanges.json").exists(), reason="the recorded answers are not at hand"
)
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def roomy():
    """An API whose budget no test uses up."""
    with running_api(events=12_000, limit=100_000, latency="0") as api:
        yield api


@pytest.fixture
def tight():
    """An API with the real budget."""
    with running_api(events=500) as api:
        yield api


def shape(value):
    """Reduce JSON to its keys, in order, and types."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def recorded(number):
    return json.loads((RECORDED / "exchanges.json").read_text())["exchanges"][number]


@NEEDS_RECORDINGS
def test_a_page_has_the_shape_of_the_recorded_one(client_of, tight):
    real = json.loads((RECORDED / "events-default-limit.json").read_text())
    ours = client_of(tight).page()
    assert list(ours) == list(real)
    assert shape(ours) == shape(real)
    assert [list(event) for event in ours["data"]] == [list(event) for event in real["data"]]


@NEEDS_RECORDINGS
def test_a_big_page_weighs_what_the_recorded_one_does(client_of, roomy):
    ours = client_of(roomy).request(limit=10_000).body
    real = (RECORDED / "events-limit-10000.json").read_bytes()
    assert len(ours) == pytest.approx(len(real), rel=0.001)
    assert ours.count(b'"timestamp":1') == real.count(b'"timestamp":1')


@NEEDS_RECORDINGS
def test_headers_of_the_first_answer_are_the_recorded_ones(client_of, tight):
    real, ours = recorded(0)["headers"], client_of(tight).request().headers
    assert set(real) <= set(ours)
    same = "Content-Type", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"
    for name in (*same, "X-Cache", "X-Cache-TTL"):
        assert ours[name] == real[name]
    assert re.fullmatch(r'W/"[0-9a-f]+-[A-Za-z0-9+/]{27}"', ours["ETag"])
    assert re.fullmatch(r'W/"[0-9a-f]+-[A-Za-z0-9+/]{27}"', real["ETag"])


@NEEDS_RECORDINGS
@pytest.mark.parametrize(
    ("number", "request_"),
    [
        (2, ("GET", "/events/bulk")),
        (3, ("GET", "/events/export")),
        (4, ("POST", "/events/bulk", '{"limit": 5000}')),
    ],
)
def test_errors_are_the_recorded_ones(client_of, tight, number, request_):
    real, ours = recorded(number), client_of(tight).request(*request_)
    assert ours.status == real["status"]
    assert ours.json == real["body"]


def test_the_default_is_100_events_and_5000_is_the_cap(client_of, roomy):
    client = client_of(roomy)
    for asked, got in (({}, 100), ({"limit": 7}, 7), ({"limit": 5000}, 5000)):
        page = client.page(**asked)
        assert len(page["data"]) == page["meta"]["returned"] == page["pagination"]["limit"] == got
    for asked in (10_000, 999_999_999):
        assert client.page(limit=asked)["pagination"]["limit"] == 5000
    for asked in ("0", "-5", "many", ""):
        assert client.page(limit=asked)["pagination"]["limit"] == 100


def test_other_parameters_change_nothing(client_of, roomy):
    client = client_of(roomy)
    plain = client.page(limit=5)["data"]
    odd = {"offset": 3, "page": 2, "sort": "asc", "fields": "id", "since": "2030", "until": "1990"}
    assert client.page(limit=5, **odd)["data"] == plain


def test_a_walk_over_http_brings_each_event_once_in_order(client_of, roomy):
    client, ids, query = client_of(roomy), [], {"limit": 5000}
    while True:
        page = client.page(**query)
        ids += [event["id"] for event in page["data"]]
        assert page["meta"]["total"] == 12_000
        if not page["pagination"]["hasMore"]:
            break
        query["cursor"] = page["pagination"]["nextCursor"]
    assert ids == [row.id for row in roomy.model.feed.rows()]
    assert page["pagination"]["nextCursor"] is None


def test_the_same_cursor_serves_again(client_of, roomy):
    client = client_of(roomy)
    cursor = client.page(limit=10)["pagination"]["nextCursor"]
    assert (
        client.page(limit=10, cursor=cursor)["data"] == client.page(limit=10, cursor=cursor)["data"]
    )


def test_request_ids_are_new_each_time_and_stand_in_the_body(client_of, roomy):
    answers = [client_of(roomy).request(limit=1) for _ in range(3)]
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert len(set(ids)) == 3
    assert all(UUID4.fullmatch(ident) for ident in ids)
    assert [answer.json["meta"]["requestId"] for answer in answers] == ids


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}, {"X-API-Key": ""}])
def test_a_bad_key_is_refused_and_spends_nothing(client_of, tight, headers):
    client = client_of(tight)
    answer = client.request(headers=headers)
    assert answer.status == 401
    assert set(answer.json) == {"error", "message", "code"}
    assert client.request().headers["X-RateLimit-Remaining"] == "9"


def test_the_key_works_as_a_parameter_too(client_of, roomy):
    client = client_of(roomy)
    assert client.request(headers={}, limit=1, api_key=client.key).status == 200


def test_one_event_by_its_id(client_of, roomy):
    client = client_of(roomy)
    event = client.page(limit=2)["data"][1]
    answer = client.request(path=f"/events/{event['id']}")
    assert answer.status == 200
    assert answer.json["data"] == event


@pytest.mark.parametrize("word", ["bulk", "-abcdef0", "-1"])
def test_any_other_word_is_an_unknown_id(client_of, roomy, word):
    answer = client_of(roomy).request(path=f"/events/{word}")
    assert (answer.status, answer.json["code"]) == (404, "EVENT_NOT_FOUND")


def test_the_manifest_is_free(client_of, tight):
    client = client_of(tight)
    for _ in range(12):
        assert client.request(path="").status == 200
    assert client.request().headers["X-RateLimit-Remaining"] == "9"


def test_an_unknown_route_is_404_and_free(client_of, tight):
    client = client_of(tight)
    for method, path in (("GET", "/users"), ("DELETE", "/events"), ("GET", "/events/a/b")):
        answer = client.request(method, path)
        assert (answer.status, answer.json["code"]) == (404, "ENDPOINT_NOT_FOUND")
    assert client.request().headers["X-RateLimit-Remaining"] == "9"


def test_the_eleventh_request_is_refused_and_not_counted(client_of, tight):
    client = client_of(tight)
    left = [
        client.request(path=path).headers["X-RateLimit-Remaining"]
        for path in ["/events"] * 9 + ["/events/bulk"]
    ]
    assert left == [str(number) for number in range(9, -1, -1)]
    for _ in range(2):
        answer = client.request(limit=1)
        wait = answer.headers["Retry-After"]
        assert answer.status == 429
        assert answer.headers["X-RateLimit-Reset"] == wait
        assert answer.headers["X-RateLimit-Remaining"] == "0"
        assert 50 <= int(wait) <= 60
        assert answer.json == {
            "error": "Too Many Requests",
            "message": f"Rate limit exceeded. Try again in {wait} seconds.",
            "code": "RATE_LIMIT_EXCEEDED",
            "rateLimit": {"limit": 10, "remaining": 0, "reset": int(wait), "retryAfter": int(wait)},
        }
        assert "X-Cache" not in answer.headers
    stats = tight.stats()
    assert (stats["requests"], stats["rate_limited"], stats["pages"]) == (12, 2, 9)
    assert stats["arrivals"] == sorted(stats["arrivals"])


def test_bulk_is_broken_and_has_a_budget_of_its_own(client_of, tight):
    client, body = client_of(tight), json.dumps({"ids": ["a"]})
    answers = [client.request("POST", "/events/bulk", body=body) for _ in range(21)]
    assert [answer.status for answer in answers] == [500] * 20 + [429]
    assert answers[0].headers["X-RateLimit-Limit"] == "20"
    assert client.request().headers["X-RateLimit-Remaining"] == "9"


@pytest.mark.parametrize("body", [None, "", "{", "[]", "{}", '{"ids": 3}', '{"limit": 5000}'])
def test_bulk_without_ids_is_an_invalid_body(client_of, roomy, body):
    answer = client_of(roomy).request("POST", "/events/bulk", body=body)
    assert (answer.status, answer.json["code"]) == (400, "INVALID_BODY")


def test_a_malformed_cursor_is_400(client_of, roomy):
    answer = client_of(roomy).request(cursor="eyJpZCI6ImUifQ")
    assert (answer.status, answer.json["code"]) == (400, "CURSOR_INVALID_FORMAT")


def test_a_page_asked_for_again_is_a_cache_hit(client_of, roomy):
    client = client_of(roomy)
    heads = [client.request(limit=size).headers for size in (41, 41, 42)]
    assert [head["X-Cache"] for head in heads] == ["MISS", "HIT", "MISS"]
    assert heads[0]["X-Cache-TTL"] == "30"


def test_the_stats_are_no_part_of_the_api(client_of, tight):
    client = client_of(tight)
    client.base = ""
    for _ in range(12):
        stats = client.request(path="/__sandbox__/stats", headers={}).json
    assert stats["requests"] == 0
    assert client.request(path="/__sandbox__/other").status == 404


def test_an_api_that_does_not_start_in_time_is_told(monkeypatch):
    go_on = threading.Event()

    async def start(_):
        await asyncio.to_thread(go_on.wait)
        raise OSError

    monkeypatch.setattr(testing.ApiServer, "start", start)
    monkeypatch.setattr(testing, "_PATIENCE", 0.01)
    try:
        with pytest.raises(TimeoutError, match="did not start"), running_api(events=1):
            pass
    finally:
        go_on.set()


def test_its_clock_may_be_another(client_of):
    with running_api(events=1, limit=1, clock=iter([1e9, 1e9, 1e9 + 60]).__next__) as api:
        statuses = [client_of(api).request().status for _ in range(3)]
    assert statuses == [200, 429, 200]


def test_it_listens_on_loopback_unless_told_otherwise():
    with running_api(events=1) as api:
        assert api.url.startswith("http://127.0.0.1:")
        addresses = {listening.getsockname()[0] for listening in api._server._listener.sockets}
        assert addresses == {"127.0.0.1"}


@pytest.mark.skipif(sys.platform != "linux", reason="only there all of 127.0.0.0/8 is at hand")
def test_a_container_lets_others_in():
    everywhere = "0.0.0.0"  # noqa: S104 - for a moment, with one made-up event
    words = ["api", "--host", everywhere, "--port", "0", "--events", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "datasync_sandbox", *words], stdout=subprocess.PIPE, text=True
    ) as served:
        url = urlsplit(served.stdout.readline().strip())
        try:
            assert url.hostname == everywhere
            # An address of this machine that is not the one it listens on by default.
            with urllib.request.urlopen(f"http://127.0.0.2:{url.port}{url.path}") as reply:
                assert reply.status == 200
        finally:
            served.terminate()
