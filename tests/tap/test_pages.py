"""A page is good as a whole, or broken as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap_datasync.failures import BrokenPageError
from tap_datasync.pages import decode_page
from tap_datasync.timestamps import format_timestamp, parse_timestamp
from tap_helpers import MILLIS, NOON, body_of, event, page_of

RECORDING = Path(__file__).parents[2].parent / "shared/recorded/events-limit-10000.json"


def test_a_page_is_decoded():
    """Rows, and what the API says around them."""
    body = body_of(event(0), event(1))
    page = decode_page(body)
    assert [record.id for record in page.records] == ["id-000000", "id-000001"]
    assert page.records[0].timestamp == NOON
    assert (page.returned, page.has_more, page.next_cursor) == (2, True, "next")
    assert (page.expires_in, page.total, page.size) == (116, 1000, len(body))
    assert (page.rejections, page.unknown, page.misfits) == ([], frozenset(), 0)


def test_a_page_cut_off_anywhere_is_broken():
    """No beginning of a page, to the byte, passes for a page."""
    body = body_of(event(0, name="é\U0001f600\\u"), event(1, properties={"a": float("nan")}))
    for end in range(len(body)):
        with pytest.raises(BrokenPageError):
            decode_page(body[:end])
    assert decode_page(body).returned == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"5",
        b"true",
        b'"text"',
        b"[]",
        b"{}",
        b"NaN",
        b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf{}",
        b'{"data":[]}',
        b'{"data":null,"pagination":{},"meta":{"total":1}}',
        b'{"data":{},"pagination":{},"meta":{"total":1}}',
        b'{"data":[],"meta":{"total":1}}',
        b'{"data":[],"pagination":null,"meta":{"total":1}}',
        b'{"data":[],"pagination":[],"meta":{"total":1}}',
        b'{"data":[],"pagination":{}}',
        b'{"data":[],"pagination":{},"meta":null}',
        b'{"data":[],"pagination":{},"meta":{}}',
        b'{"data":[],"pagination":{},"meta":{"total":null}}',
        b'{"data":[],"pagination":{},"meta":{"total":"many"}}',
        b'{"data":[],"pagination":{},"meta":{"total":1.5}}',
        b'{"data":[],"pagination":{},"meta":{"total":-1}}',
        b'{"data":[],"pagination":{},"meta":{"total":NaN}}',
        b'{"data":[],"pagination":{},"meta":{"total":Infinity}}',
        b'{"data":[],"pagination":{"hasMore":"yes"},"meta":{"total":1}}',
        b'{"data":[],"pagination":{"nextCursor":5},"meta":{"total":1}}',
        b'{"data":[],"pagination":{"cursorExpiresIn":"soon"},"meta":{"total":1}}',
        b'{"data":[],"pagination":{"cursorExpiresIn":Infinity},"meta":{"total":1}}',
        b'{"data":[],"pagination":{"cursorExpiresIn":1e400},"meta":{"total":1}}',
        b'{"data":[],"pagination":{"nextCursor":"\\ud800"},"meta":{"total":1}}',
        b'{"data":[],"pagination":{},"meta":{"total":1}} trailing',
        b'{"data":[,],"pagination":{},"meta":{"total":1}}',
        b'{"data":[],"pa\\xgination":{},"pagination":{},"meta":{"total":1}}',
        b'{"data":[],"pagination":{"limit":'
        + b"[" * 10**5
        + b"]" * 10**5
        + b'},"meta":{"total":1}}',
    ],
)
def test_what_is_no_page_is_broken(body):
    """Every broken body that was met, and some that were not."""
    with pytest.raises(BrokenPageError):
        decode_page(body)


def test_a_page_that_holds_fewer_events_than_it_says_is_broken():
    """``meta.returned`` is checked, where it is there."""
    with pytest.raises(BrokenPageError, match="holds 1 events, but says 2"):
        decode_page(body_of(event(), returned=2))
    assert decode_page(body_of(event(), returned=...)).returned == 1
    assert decode_page(body_of(event(), returned=None)).returned == 1


@pytest.mark.parametrize("name", ["hasMore", "nextCursor", "cursorExpiresIn"])
@pytest.mark.parametrize("value", [None, ...])
def test_what_the_api_does_not_say_is_none(name, value):
    """Missing and null are the same: not said."""
    page = decode_page(body_of(event(), **{name: value}))
    said = (page.has_more, page.next_cursor, page.expires_in)
    assert said[["hasMore", "nextCursor", "cursorExpiresIn"].index(name)] is None


def test_an_empty_cursor_is_none():
    """An empty text leads nowhere."""
    assert decode_page(body_of(event(), nextCursor="")).next_cursor is None


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("spoilt", [{}, {"name": float("nan")}, {"name": "\x00"}, {"more": 1}])
def test_a_pretty_printed_page_gives_objects_on_one_line(newline, spoilt):
    """Objects are passed through as text, which must not break a Singer message."""
    page = page_of(event(0), event(1, **spoilt))
    pretty = decode_page(json.dumps(page, indent=2).replace("\n", newline).encode())
    plain = decode_page(json.dumps(page).encode())
    for record, other in zip(pretty.records, plain.records, strict=True):
        line = msgspec.json.encode(record)
        assert b"\n" not in line
        assert b"\r" not in line
        assert json.loads(line) == json.loads(msgspec.json.encode(other))


def test_unknown_fields_are_named_and_cost_nothing_else():
    """A new field of the API is no misfit; the page is still decoded at once."""
    page = decode_page(body_of(event(0), event(1, zeta=1), event(2, alpha=[2])))
    assert page.unknown == {"alpha", "zeta"}
    assert (page.returned, len(page.records), page.rejections) == (3, 3, [])


def test_unknown_fields_beside_a_misfit_are_named_too():
    """Also where every event has to be looked at."""
    page = decode_page(body_of(event(0, type=5), event(1, zeta=1)))
    assert page.unknown == {"zeta"}
    assert len(page.rejections) == 1


def test_unknown_parts_of_the_page_are_ignored():
    """The API may say more around the events."""
    page = page_of(event(), offset=5) | {"links": {"self": "x"}}
    assert decode_page(json.dumps(page).encode()).returned == 1


def test_one_bad_event_leaves_the_others_as_they_are():
    """Misfits of every kind on one page: each is rejected alone, with its text."""
    bad = [
        event(1, type=5),
        event(2, timestamp="yesterday"),
        event(3, properties={"a": float("nan")}),
        event(4, name="a\x00b"),
        event(5, id=...),
        event(6, session=None),
        "no object",
    ]
    page = decode_page(body_of(event(0), *bad, event(9)))
    assert page.returned == 9
    assert [record.id for record in page.records] == [
        f"id-{number:06}" for number in (0, 1, 2, 3, 4, 6, 9)
    ]
    assert [json.loads(r.raw, strict=False) for r in page.rejections[:2]] == bad[:2]
    assert [r.event_id for r in page.rejections[:5]] == [*(f"id-{n:06}" for n in range(1, 5)), None]
    assert page.misfits == 6
    assert page.records[0] == decode_page(body_of(event(0))).records[0]


def test_invalid_utf_8_is_replaced_and_told():
    """The event stays; what is not text is no page."""
    page = decode_page(body_of(event(0, name="@@"), event(1)).replace(b"@@", b"a\xffb"))
    assert page.records[0].name == "a\ufffdb"
    assert page.records[1] == decode_page(body_of(event(1))).records[0]
    assert len(page.rejections) == 1
    assert "invalid UTF-8 replaced" in page.rejections[0].reasons


def test_the_raw_text_of_a_rejection_can_be_stored():
    """A NUL that is not escaped is, in the text that is kept."""
    page = decode_page(body_of(event(0, name="@@")).replace(b"@@", b"a\x00b"))
    assert "\x00" not in page.rejections[0].raw
    assert json.loads(page.rejections[0].raw)["name"] == "a\x00b"


def test_the_raw_text_of_a_rejection_has_a_length():
    """It goes into one line, too."""
    page = decode_page(body_of(event(0, type=5, name="x" * 2_000_000)))
    assert len(page.rejections[0].raw) < 1_100_000
    assert page.rejections[0].raw.endswith("(cut off)")


def test_no_more_reasons_are_kept_than_somebody_reads():
    """An object full of bad numbers under long names does not become a page of reasons."""
    bad = {f"{'k' * 1000}{number}": float("nan") for number in range(50)}
    reasons = decode_page(body_of(event(0, properties=bad))).rejections[0].reasons
    assert len(reasons) == 21
    assert max(map(len, reasons)) == 300
    assert reasons[-1] == "and 30 more"


def test_the_same_event_is_rejected_under_the_same_id():
    """However its time is spelt: the API goes by the place of an event on the page."""
    iso = "2026-01-27T12:00:00.000Z"
    spellings = [event(0, type=5, timestamp=spelling) for spelling in (MILLIS, iso, str(MILLIS))]
    ids = [decode_page(body_of(each)).rejections[0].rejection_id for each in spellings]
    assert len(set(ids)) == 1
    assert len(ids[0]) == 64
    others = [event(0, type=6), event(0, type=5, timestamp=MILLIS + 1), event(1, type=5), "text"]
    ids += [decode_page(body_of(each)).rejections[0].rejection_id for each in others]
    assert len(set(ids)) == 5


def test_the_size_is_that_of_the_body_as_it_came():
    """A pretty-printed page is put on one line, and counted before."""
    body = json.dumps(page_of(event(0)), indent=2).encode()
    assert decode_page(body).size == len(body)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("field", ["id", "name", "timestamp", "session"])
def test_what_is_no_number_is_damage_wherever_it_stands(field, number):
    """The page may come better when it is asked for again."""
    body = body_of(event(0, **{field: "@@"}), event(1)).replace(b'"@@"', number.encode())
    page = decode_page(body)
    assert page.damaged
    assert any("which is no JSON number" in reason for reason in page.rejections[0].reasons)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_body_is_a_page_or_broken(body):
    """No body ends in another exception."""
    with pytest.raises(BrokenPageError):
        decode_page(body)


@given(st.data())
def test_a_page_with_one_byte_changed_is_a_page_or_broken(data):
    """No damage on the way ends in another exception, or in fewer events than are said."""
    body = bytearray(body_of(event(0), event(1, name="é\x00"), event(2)))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] = data.draw(st.integers(0, 255))
    try:
        page = decode_page(bytes(body))
    except BrokenPageError:
        return
    assert page.returned == 3
    kept = {record.id for record in page.records}
    rejected = [rejection for rejection in page.rejections if rejection.event_id is None]
    assert len(kept) + len(rejected) >= 2


@pytest.mark.skipif(not RECORDING.exists(), reason="the recorded page is not at hand")
def test_the_recorded_page_is_decoded_field_by_field():
    """A real answer: every column of all 5000 rows equals the recording."""
    body = RECORDING.read_bytes()
    recorded = json.loads(body)
    page = decode_page(body)
    assert (page.returned, page.total, page.has_more) == (5000, 3_000_000, True)
    assert page.next_cursor == recorded["pagination"]["nextCursor"]
    assert (page.rejections, page.unknown) == ([], frozenset())
    assert len({record.id for record in page.records}) == 5000
    for record, raw in zip(page.records, recorded["data"], strict=True):
        row = json.loads(msgspec.json.encode(record))
        assert row == {
            "id": raw["id"],
            "session_id": raw["sessionId"],
            "user_id": raw["userId"],
            "type": raw["type"],
            "name": raw["name"],
            "properties": raw["properties"],
            "timestamp": row["timestamp"],
            "session": raw["session"],
        }
        assert parse_timestamp(row["timestamp"]) == parse_timestamp(raw["timestamp"])
        assert format_timestamp(record.timestamp)[:19] == row["timestamp"][:19]
    moments = [record.timestamp for record in page.records]
    assert moments == sorted(moments, reverse=True)
