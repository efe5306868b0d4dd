"""Each fault has the effect that its help names, as often as asked; then the page is served."""

from __future__ import annotations

import json
import zlib
from datetime import datetime
from email.utils import parsedate_to_datetime

import pytest
from datasync_sandbox.testing import (
    FAULTS,
    Fault,
    Faults,
    NoReply,
    Refused,
    Reset,
)

from tests.sandbox.sandbox_helpers import START, api, ask, code, page

MIB = 1024 * 1024


def model_with(*faults, limit=1000):
    return api(*faults, events=50, limit=limit)


def request_page(model, cursor=None, now=START):
    return ask(model, now, limit=10, cursor=cursor)


def second_page(*faults):
    """Return a model, the cursor to page 2 of 5, and the outcome of the request for it."""
    model = model_with(*faults)
    cursor = page(model, limit=10)["pagination"]["nextCursor"]
    return model, cursor, request_page(model, cursor)


def document(outcome):
    assert outcome.status == 200
    return json.loads(outcome.body)


VALID = document(second_page()[2])


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_fault_hits_once_and_then_the_page_is_served(name):
    model, cursor, outcome = second_page(f"{name}@2")
    assert outcome != second_page()[2]
    assert model.faults.pending == []
    assert model.stats()["faults"] == {name: 1}
    now = START
    if name.startswith("429"):  # enforced, and one of them outlives the cursor
        now += 200
        cursor = json.loads(request_page(model, now=now).body)["pagination"]["nextCursor"]
    assert document(request_page(model, cursor, now))["data"] == VALID["data"]


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_fault_hits_the_last_page(name):
    model, cursor = model_with(f"{name}@5"), None
    for _ in range(4):
        cursor = document(request_page(model, cursor))["pagination"]["nextCursor"]
    assert model.faults.pending
    request_page(model, cursor)
    assert not model.faults.pending


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_every_fault_but_a_refused_connection_is_counted(name):
    model = model_with(f"{name}@1", limit=3)
    request_page(model)
    later = request_page(model, now=START + (59.9 if name.startswith("429") else 0))
    if later.status == 200:
        assert later.headers["X-RateLimit-Remaining"] == ("2" if name == "refused" else "1")


def pagination(outcome):
    return document(outcome)["pagination"]


def data(outcome):
    return document(outcome)["data"]


def timestamp(event):
    value = event["timestamp"]
    if isinstance(value, int):
        return value / 1000
    return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()


def end(outcome):
    return pagination(outcome), len(data(outcome)), document(outcome)["meta"]["total"]


def error(outcome):
    return *code(outcome), "X-Cache" in outcome.headers


def constants(outcome):
    """Return what is in a document although JSON does not have it."""
    found = []
    json.loads(outcome.body, parse_constant=found.append)
    return found


def decoding_error(outcome):
    """Return why a body is no JSON."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - of two kinds: no JSON, no UTF-8
        json.loads(outcome.body)
    return type(caught.value)


def next_cursor_stays(outcome):
    """Return whether a page leads to itself, and how many events it has."""
    cursor = page(model_with(), limit=10)["pagination"]["nextCursor"]
    returned = document(outcome)["meta"]["returned"]
    return pagination(outcome)["nextCursor"] == cursor, returned, len(data(outcome))


# Of each fault: what to look at, and what it should be for page 2.
EFFECTS = {
    **{
        name: (error, (*expected, False))
        for name, expected in {
            "400": (400, "BAD_REQUEST"),
            "401": (401, "UNAUTHORIZED"),
            "403": (403, "FORBIDDEN"),
            "404": (404, "ENDPOINT_NOT_FOUND"),
            "409": (409, "CONFLICT"),
            "429": (429, "RATE_LIMIT_EXCEEDED"),
            "429-date": (429, "RATE_LIMIT_EXCEEDED"),
            "500": (500, "INTERNAL_ERROR"),
            "cursor-expired": (400, "CURSOR_EXPIRED"),
            "cursor-malformed": (400, "CURSOR_INVALID_FORMAT"),
        }.items()
    },
    **{
        str(status): (
            lambda o: (o.status, o.headers, o.body[:6]),
            (status, {"Content-Type": "text/html; charset=utf-8"}, b"<html>"),
        )
        for status in (501, 502, 503, 504)
    },
    "204": (lambda o: (o.status, o.body), (204, b"")),
    "206": (
        lambda o: (o.status, o.headers["Content-Range"][:8], decoding_error(o)),
        (206, "bytes 0-", json.JSONDecodeError),
    ),
    "redirect": (lambda o: (o.status, o.body, o.padding), (302, b"", 0)),
    "huge-redirect=2": (lambda o: (o.status, o.padding), (302, 2 * MIB)),
    "refused=2.5": (lambda o: o, Refused(2.5)),
    "reset": (lambda o: o, Reset()),
    "hang": (lambda o: o, NoReply()),
    "reset-body=0.25": (lambda o: o.sent == len(o.partial.body) // 4, True),
    "late-reply=7": (lambda o: (o.delay, document(o)["data"]), (7, VALID["data"])),
    "drip-body=12": (lambda o: (o.drip, document(o)["data"]), (12, VALID["data"])),
    "drip-headers=12": (lambda o: (o.header_drip, document(o)["data"]), (12, VALID["data"])),
    "null": (document, None),
    "list": (document, []),
    "empty": (lambda o: o.body, b""),
    "truncated": (decoding_error, json.JSONDecodeError),
    "bad-utf8": (
        lambda o: (decoding_error(o), len(json.loads(o.body.decode(errors="replace"))["data"])),
        (UnicodeDecodeError, 10),
    ),
    "nan": (constants, ["NaN"]),
    "infinity": (constants, ["Infinity"]),
    "empty-same-cursor": (next_cursor_stays, (True, 0, 0)),
    "repeat-cursor": (next_cursor_stays, (True, 10, 10)),
    "html": (lambda o: o.body[:15], b"<!DOCTYPE html>"),
    "huge-body=2": (lambda o: (o.padding, document(o)["data"]), (2 * MIB, VALID["data"])),
    "no-data": (lambda o: sorted(document(o)), ["meta", "pagination"]),
    "null-data": (data, None),
    "no-pagination": (lambda o: sorted(document(o)), ["data", "meta"]),
    "null-pagination": (pagination, None),
    "no-meta": (lambda o: sorted(document(o)), ["data", "pagination"]),
    "null-meta": (lambda o: document(o)["meta"], None),
    "no-cursor": (pagination, {"limit": 10, "hasMore": True}),
    "false-end": (end, ({"limit": 10, "hasMore": False, "nextCursor": None}, 10, 50)),
    "false-end-bare": (end, ({"limit": 10}, 10, 50)),
    "false-end-empty": (end, ({"limit": 10, "hasMore": False, "nextCursor": None}, 0, 50)),
    "429-bare": (
        lambda o: (code(o), list(o.headers)),
        ((429, "RATE_LIMIT_EXCEEDED"), ["Content-Type"]),
    ),
    "429-long": (lambda o: o.headers["Retry-After"], "125"),
    "bad-expires": (lambda o: pagination(o)["cursorExpiresIn"], "soon"),
    "total-zero": (lambda o: document(o)["meta"]["total"], 0),
    "total-dip=0.3": (lambda o: document(o)["meta"]["total"], 15),
    "reset-epoch": (lambda o: int(o.headers["X-RateLimit-Reset"]), 1_700_000_061),
    "future=3600": (
        lambda o: (timestamp(data(o)[0]), data(o)[1:]),
        (START + 3600, VALID["data"][1:]),
    ),
    "old-timestamps=2": (
        lambda o: ([timestamp(event) for event in data(o)[8:]], data(o)[:8]),
        ([0, 1], VALID["data"][:8]),
    ),
}


@pytest.mark.parametrize("fault", sorted(EFFECTS))
def test_fault_has_its_effect(fault):
    look, expected = EFFECTS[fault]
    assert look(second_page(f"{fault}@2")[2]) == expected


def test_gzip_bomb_is_small_until_it_is_decompressed():
    outcome = second_page("gzip-bomb=64@2")[2]
    assert outcome.headers["Content-Encoding"] == "gzip"
    assert len(outcome.body) < MIB
    size, rest = 0, outcome.body
    while rest:
        member = zlib.decompressobj(wbits=31)
        size += len(member.decompress(rest))
        rest = member.unused_data
    assert size == 64 * MIB


def test_empty_pages_lead_to_the_same_page():
    model, cursor, first = second_page("empty-page@2x2")
    assert data(first) == []
    assert pagination(first)["hasMore"]
    # A cursor of its own only in time: the text names the expiry.
    second = request_page(model, cursor, START + 1)
    assert data(second) == []
    assert pagination(second)["nextCursor"] != pagination(first)["nextCursor"]
    third = request_page(model, pagination(second)["nextCursor"], START + 2)
    assert data(third) == VALID["data"]


def test_cycle_repeats_the_pages_with_new_cursors():
    model = model_with("cycle@3xforever")
    cursors, first_ids, cursor = [], [], None
    for step in range(7):
        outcome = request_page(model, cursor, START + step)
        first_ids.append(data(outcome)[0]["id"])
        cursor = pagination(outcome)["nextCursor"]
        cursors.append(cursor)
    assert first_ids[:3] == first_ids[3:6]
    assert first_ids[6] == first_ids[0]
    assert len(set(cursors)) == 7


def test_overlap_repeats_events_of_the_page_before_and_loses_none():
    model = model_with("overlap=4@2")
    found, cursor, more = [], None, True
    while more:
        outcome = request_page(model, cursor)
        found.append([event["id"] for event in data(outcome)])
        more, cursor = pagination(outcome)["hasMore"], pagination(outcome)["nextCursor"]
    assert found[1][:4] == found[0][-4:]
    assert len(found[1]) == 10
    distinct = list(dict.fromkeys(event_id for ids in found for event_id in ids))
    assert distinct == [row.id for row in model.feed.rows()]


def test_faults_of_one_page_follow_one_another():
    model = model_with("503@1x2", "empty@1", "401@2")
    assert [request_page(model).status for _ in range(2)] == [503, 503]
    assert request_page(model).body == b""
    cursor = pagination(request_page(model))["nextCursor"]
    assert request_page(model, cursor).status == 401


def test_pages_are_counted_anew_in_a_new_scan():
    model = model_with("503@2x2")
    for expected in (503, 503, 200):
        cursor = pagination(request_page(model))["nextCursor"]
        assert request_page(model, cursor).status == expected


def test_429_is_enforced():
    model, cursor, outcome = second_page("429=7@2")
    assert outcome.headers["Retry-After"] == "7"
    # A rounding error of the clock does not cost a second.
    early = request_page(model, cursor, START + 6 - 4e-7)
    assert (early.status, early.headers["Retry-After"]) == (429, "1")
    assert request_page(model, cursor, START + 7).status == 200


def test_429_with_a_date_is_over_at_that_date():
    model, cursor, outcome = second_page("429-date=7@2")
    until = parsedate_to_datetime(outcome.headers["Retry-After"]).timestamp()
    assert START + 7 <= until < START + 8
    assert "X-RateLimit-Reset" not in outcome.headers
    assert request_page(model, cursor, until - 0.1).status == 429
    assert request_page(model, cursor, until).status == 200


def test_429_of_the_rate_limit_does_not_consume_a_fault():
    model = model_with("503@2", limit=1)
    cursor = pagination(request_page(model))["nextCursor"]
    assert request_page(model, cursor).status == 429
    assert request_page(model, cursor, START + 60).status == 503


@pytest.mark.parametrize(
    "text", ["503@3", "503@3x2", "false-end@4xforever", "drip-body=2.5@1", "429=3@2x4"]
)
def test_fault_is_parsed_and_written(text):
    assert str(Fault.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "503", "503@", "@2", "503@0", "503@1x0", "nonsense@1", "503@1xnever", "503=4@1", "503@-1"],
)
def test_wrong_fault_is_an_error(text):
    with pytest.raises(ValueError, match="fault"):
        Faults([text])


def test_effects_of_all_faults_are_tested():
    by_hand = {"gzip-bomb", "empty-page", "cycle", "overlap"}
    assert by_hand | {fault.partition("=")[0] for fault in EFFECTS} == set(FAULTS)
