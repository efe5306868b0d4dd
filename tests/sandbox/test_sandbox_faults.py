"""Each fault does what the help says, as often as it was told, and then the page is served."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from email.utils import parsedate_to_datetime

import pytest
from datasync_sandbox.catalogue import FAULTS
from datasync_sandbox.testing import (
    ApiConfig,
    ApiModel,
    Fault,
    Faults,
    Feed,
    NoReply,
    Refused,
    Reset,
    running_api,
)

KEY = {"X-API-Key": "sandbox-key"}
START = 1_700_000_000.25


def ask(model, cursor=None, now=START):
    query = {"limit": "10"} | ({"cursor": cursor} if cursor else {})
    return model.handle("GET", "/api/v1/events", query, KEY | {"Host": "127.0.0.1:5"}, now=now)


def struck(spelling):
    """Meet a fault on page 2 of 5; return the model, the cursor to page 2, and what happened."""
    model = ApiModel(Feed(50), ApiConfig(limit=1000), [spelling])
    cursor = json.loads(ask(model).body)["pagination"]["nextCursor"]
    return model, cursor, ask(model, cursor)


def document(outcome):
    assert outcome.status == 200
    return json.loads(outcome.body)


GATEWAY = ("502", "503", "504")
CODES = {
    "500": (500, "INTERNAL_ERROR"),
    "cursor-expired": (400, "CURSOR_EXPIRED"),
    "cursor-malformed": (400, "CURSOR_INVALID_FORMAT"),
    "400": (400, "BAD_REQUEST"),
    "401": (401, "UNAUTHORIZED"),
    "403": (403, "FORBIDDEN"),
    "404": (404, "ENDPOINT_NOT_FOUND"),
    "429": (429, "RATE_LIMIT_EXCEEDED"),
    "429-date": (429, "RATE_LIMIT_EXCEEDED"),
    "429-bare": (429, "RATE_LIMIT_EXCEEDED"),
    "429-long": (429, "RATE_LIMIT_EXCEEDED"),
}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_fault_strikes_once_and_then_the_page_is_whole(name):
    model, cursor, outcome = struck(f"{name}@2")
    right = ApiModel(Feed(50), ApiConfig(limit=1000))
    good = ask(right, json.loads(ask(right).body)["pagination"]["nextCursor"])
    assert outcome != good
    assert model.faults.pending() == []
    again = ask(model, cursor, now=START + 200 if name.startswith("429") else START)
    if name == "429-long":  # outwaited its cursor, as it should
        assert json.loads(again.body)["code"] == "CURSOR_EXPIRED"
        return
    if name.startswith("429"):
        again = ask(
            model,
            json.loads(ask(model, now=START + 200).body)["pagination"]["nextCursor"],
            START + 200,
        )
    assert json.loads(again.body)["data"] == json.loads(good.body)["data"]
    assert model.stats()["faults"] == {name: 1}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_fault_on_the_first_and_on_the_last_page(name):
    for page in (1, 5):
        model, cursor = ApiModel(Feed(50), ApiConfig(limit=1000), [f"{name}@{page}"]), None
        for _ in range(page - 1):
            cursor = json.loads(ask(model, cursor).body)["pagination"]["nextCursor"]
        assert model.faults.pending()
        ask(model, cursor)
        assert not model.faults.pending()


@pytest.mark.parametrize("name", sorted(CODES))
def test_errors_of_the_api(name):
    _, _, outcome = struck(f"{name}@2")
    assert (outcome.status, json.loads(outcome.body)["code"]) == CODES[name]
    assert "X-Cache" not in outcome.headers


@pytest.mark.parametrize("name", GATEWAY)
def test_errors_of_the_gateway_are_html_without_budget(name):
    _, _, outcome = struck(f"{name}@2")
    assert outcome.status == int(name)
    assert outcome.headers == {"Content-Type": "text/html; charset=utf-8"}
    assert outcome.body.startswith(b"<html>")


def test_connection_faults():
    assert struck("refused=2.5@2")[2] == Refused(2.5)
    assert struck("reset@2")[2] == Reset()
    assert struck("hang@2")[2] == NoReply()
    cut = struck("reset-body=0.25@2")[2]
    assert cut.sent == len(cut.partial.body) // 4
    assert struck("drip-body=12@2")[2].drip == 12
    assert struck("late-reply=7@2")[2].delay == 7


@pytest.mark.parametrize("name", ["truncated", "empty", "html", "bad-utf8"])
def test_bodies_that_are_no_json(name):
    outcome = struck(f"{name}@2")[2]
    assert outcome.status == 200
    with pytest.raises(ValueError):  # noqa: PT011 - of two kinds: no JSON, no UTF-8
        json.loads(outcome.body)


def test_bad_utf8_would_be_json_but_for_its_bytes():
    assert json.loads(struck("bad-utf8@2")[2].body.decode(errors="replace"))["data"]


@pytest.mark.parametrize(("name", "literal"), [("nan", b"NaN"), ("infinity", b"Infinity")])
def test_numbers_that_json_does_not_have(name, literal):
    body = struck(f"{name}@2")[2].body
    assert body.count(literal) == 1
    met = []
    json.loads(body, parse_constant=met.append)
    assert met == [literal.decode()]


def test_wrong_documents():
    assert document(struck("null@2")[2]) is None
    assert document(struck("list@2")[2]) == []
    for name in ("data", "pagination", "meta"):
        assert name not in document(struck(f"no-{name}@2")[2])
        assert document(struck(f"null-{name}@2")[2])[name] is None


def test_empty_pages_lead_to_the_same_place():
    model, cursor, _ = struck("empty-page@2x3")
    first = document(ask(model, cursor, START + 0.5))
    assert first["data"] == []
    assert first["pagination"]["hasMore"]
    assert first["pagination"]["nextCursor"] != cursor
    second = document(ask(model, first["pagination"]["nextCursor"], START + 1))
    assert second["data"] == []
    third = document(ask(model, second["pagination"]["nextCursor"], START + 2))
    assert third["meta"]["returned"] == 10
    assert third["data"] == document(ask(model, cursor, START + 3))["data"]


def test_the_cursor_that_does_not_advance():
    _, cursor, outcome = struck("empty-same-cursor@2")
    assert document(outcome)["pagination"]["nextCursor"] == cursor
    _, cursor, outcome = struck("repeat-cursor@2")
    page = document(outcome)
    assert page["pagination"]["nextCursor"] == cursor
    assert page["meta"]["returned"] == 10


def test_false_ends_are_short_of_the_total():
    for name in ("false-end", "false-end-bare", "false-end-empty"):
        page = document(struck(f"{name}@2")[2])
        assert not page["pagination"].get("hasMore")
        assert not page["pagination"].get("nextCursor")
        assert page["meta"]["total"] == 50
        assert len(page["data"]) == (0 if name == "false-end-empty" else 10)
    page = document(struck("no-cursor@2")[2])
    assert page["pagination"] == {"limit": 10, "hasMore": True}


def test_a_fault_for_good_never_ends():
    model, cursor, _ = struck("false-end@2xforever")
    for second in range(30):
        assert not document(ask(model, cursor, START + second))["pagination"]["hasMore"]
    assert model.faults.pending() == ["false-end@2xforever"]


def test_faults_on_one_page_follow_each_other():
    model = ApiModel(Feed(50), ApiConfig(limit=1000), ["503@1x2", "empty@1", "401@2"])
    statuses = [ask(model).status for _ in range(2)]
    assert statuses == [503, 503]
    assert ask(model).body == b""
    cursor = document(ask(model))["pagination"]["nextCursor"]
    assert ask(model, cursor).status == 401


def test_pages_count_anew_in_a_new_walk():
    model = ApiModel(Feed(50), ApiConfig(limit=1000), ["503@2x2"])
    for expected in (503, 503, 200):
        cursor = document(ask(model))["pagination"]["nextCursor"]
        assert ask(model, cursor).status == expected


def test_a_429_is_meant():
    model, cursor, outcome = struck("429=7@2")
    assert outcome.headers["Retry-After"] == "7"
    early = ask(model, cursor, START + 6.5)
    assert (early.status, early.headers["Retry-After"]) == (429, "1")
    assert ask(model, cursor, START + 7).status == 200


def test_a_429_with_a_date_is_over_at_that_date():
    model, cursor, outcome = struck("429-date=7@2")
    until = parsedate_to_datetime(outcome.headers["Retry-After"]).timestamp()
    assert START + 7 <= until < START + 8
    assert "X-RateLimit-Reset" not in outcome.headers
    assert ask(model, cursor, until - 0.1).status == 429
    assert ask(model, cursor, until).status == 200


def test_a_429_that_says_nothing():
    outcome = struck("429-bare@2")[2]
    assert not [name for name in outcome.headers if name.startswith(("Retry", "X-Rate"))]


def test_a_429_longer_than_a_cursor_lives():
    assert struck("429-long@2")[2].headers["Retry-After"] == "125"


def test_a_real_429_does_not_use_up_a_fault():
    model = ApiModel(Feed(50), ApiConfig(limit=1), ["503@1"])
    assert ask(model).status == 503
    model = ApiModel(Feed(50), ApiConfig(limit=1), ["503@2"])
    cursor = document(ask(model))["pagination"]["nextCursor"]
    assert ask(model, cursor).status == 429
    assert ask(model, cursor, START + 60).status == 503


def test_only_a_refused_connection_spends_no_budget():
    for name in sorted(FAULTS):
        model = ApiModel(Feed(50), ApiConfig(limit=3), [f"{name}@1"])
        ask(model)
        later = ask(model, now=START + 59.9 if name.startswith("429") else START)
        if later.status == 200:
            assert later.headers["X-RateLimit-Remaining"] == ("2" if name == "refused" else "1")


@pytest.mark.parametrize(
    "spelling", ["503@3", "503@3x2", "false-end@4xforever", "drip-body=2.5@1", "429=3@2x4"]
)
def test_spellings_are_read_and_written(spelling):
    assert str(Fault.parse(spelling)) == spelling


@pytest.mark.parametrize(
    "spelling",
    ["", "503", "503@", "@2", "503@0", "503@1x0", "nonsense@1", "503@1xnever", "503=4@1", "503@-1"],
)
def test_wrong_spellings_are_told(spelling):
    with pytest.raises(ValueError, match="fault"):
        Faults([spelling])


def over_http(api):
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
    try:
        connection.request("GET", "/api/v1/events?limit=10", headers=KEY)
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()


def test_over_http_connections_are_reset():
    with running_api(events=5000, fault=["reset@1", "reset-body@1"]) as api:
        with pytest.raises(ConnectionError):
            over_http(api)
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            over_http(api)
        assert over_http(api)[0] == 200


def test_over_http_a_refused_connection_is_refused_by_the_system():
    with running_api(events=50, fault=["refused=600@1"]) as api:
        with pytest.raises(ConnectionError):
            over_http(api)
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                over_http(api)
        assert api.stats()["faults"] == {"refused": 1}


def test_over_http_a_refusal_has_an_end():
    with running_api(events=50, fault=["refused=0.05@1"]) as api:
        with pytest.raises(ConnectionError):
            over_http(api)
        while (outcome := _outcome(api)) != 200:
            assert isinstance(outcome, ConnectionRefusedError)
            time.sleep(0.01)  # a real socket: there is no clock to inject


def test_over_http_nobody_else_gets_the_port_while_it_is_refused():
    with running_api(events=50, fault=["refused=600@1"]) as api:
        with pytest.raises(ConnectionError):
            over_http(api)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", api.port))


def test_over_http_no_reply_means_no_reply_and_does_not_hold_up_the_end():
    with running_api(events=50, fault=["hang@1"]) as api:
        got = []
        thread = threading.Thread(target=lambda: got.append(_outcome(api)))
        thread.start()
        while not api.stats()["requests"]:
            time.sleep(0.01)
        assert over_http(api)[0] == 200
        assert got == []
    thread.join(10)
    assert got
    assert got[0] != 200


def _outcome(api):
    try:
        return over_http(api)[0]
    except (ConnectionError, http.client.HTTPException) as error:
        return error


def test_over_http_a_slow_body_drips():
    with running_api(events=5000, fault=["drip-body=600@1"]) as api:
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
        connection.request("GET", "/api/v1/events?limit=2000", headers=KEY)
        response = connection.getresponse()
        # Of ten minutes, the first piece is here at once and most is not.
        assert 0 < len(response.read1()) < int(response.headers["Content-Length"])
        connection.close()


def test_over_http_a_slow_body_is_whole_in_the_end():
    with running_api(events=5000, fault=["drip-body=0.2@1"]) as api:
        status, _, body = over_http(api)
        assert status == 200
        assert json.loads(body)["meta"]["returned"] == 10


def test_over_http_a_redirect_leads_to_where_a_key_is_noticed():
    with running_api(events=50, fault=["redirect@1"]) as api:
        status, headers, _ = over_http(api)
        location = dict(headers)["Location"]
        assert (status, location) == (302, f"http://localhost:{api.port}/__sandbox__/elsewhere")
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=10)
        connection.request("GET", "/__sandbox__/elsewhere", headers=KEY)
        connection.getresponse().read()
        connection.close()
        stats = api.stats()
        assert (stats["redirects_followed"], stats["keys_elsewhere"]) == (1, 1)
