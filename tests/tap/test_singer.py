"""What the tap writes as Singer messages, and what it relies on inside the SDK."""

# ruff: noqa: PLR0913 - fixtures and drawn examples are arguments

from __future__ import annotations

import inspect
import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec
import pytest
from singer_sdk import Stream, Tap
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.exceptions import AbortedSyncPausedException
from singer_sdk.helpers._state import StateWriter
from singer_sdk.mapper import SameRecordTransform
from singer_sdk.singerlib import RecordMessage
from tap_datasync.failures import IncompleteFeedError
from tap_datasync.singer import Interruptible, PagewiseStream, PageWriter, TerminatedError
from tap_datasync.streams import EventsStream
from tap_datasync.tap import TapDataSync
from tap_helpers import KEY, FakeClock, body_of, event, feeding, last_page, limits, lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = {
    None: body_of(*map(event, range(5)), nextCursor="c5", total=12),
    "c5": body_of(
        *map(event, range(5, 9)), event(9, type=5), event(10, id=...), nextCursor="c11", total=12
    ),
    "c11": body_of(event(11), nextCursor=None, hasMore=False, total=12),
}


class Output:
    """What a run wrote."""

    def __init__(self, text: str) -> None:
        self.messages = lines_of(text)

    def of(self, kind: str, stream: str | None = None) -> list[dict[str, Any]]:
        return [m for m in self.messages if m["type"] == kind and stream in (None, m.get("stream"))]

    def rows(self, stream: str = "events") -> list[dict[str, Any]]:
        return [message["record"] for message in self.of("RECORD", stream)]

    @property
    def bookmarks(self) -> list[dict[str, Any]]:
        return [m["value"]["bookmarks"]["events"] for m in self.of("STATE")]

    @property
    def outline(self) -> list[str]:
        """Return the messages as words; equal ones in a row once, with their count."""
        words: list[str] = []
        for message in self.messages:
            word = f"{message['type']} {message.get('stream', '')}".strip()
            if words and words[-1].split(" x")[0] == word:
                count = int([*words[-1].split(" x"), "1"][1])
                words[-1] = f"{word} x{count + 1}"
            else:
                words.append(word)
        return words


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run the tap in this process against pages; returns what it wrote."""
    monkeypatch.chdir(tmp_path)

    def start(
        pages: dict[str | None, bytes] = PAGES,
        *,
        config: dict[str, Any] | None = None,
        state: dict[str, Any] | None = None,
        catalog: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        error: type[BaseException] | None = None,
    ) -> Output:
        monkeypatch.setattr(EventsStream, "clock", FakeClock())
        with feeding(pages, headers) as server:
            tap = TapDataSync(
                config={"api_url": server.url, "api_key": KEY} | (config or {}),
                state=state,
                catalog=catalog,
            )
            capfd.readouterr()
            if error is None:
                tap.sync_all()
            else:
                with pytest.raises(error):
                    tap.sync_all()
        sys.stdout.flush()
        return Output(capfd.readouterr().out)

    return start


def catalog_with(*deselected: tuple[str, ...], **events: str) -> dict[str, Any]:
    """Return the discovered catalog without these streams or fields."""
    tap = TapDataSync(config={}, validate_config=False)
    catalog = json.loads(tap.catalog_json_text)
    for stream in catalog["streams"]:
        if stream["tap_stream_id"] == "events":
            stream.update(events)
        for metadata in stream["metadata"]:
            place = (stream["tap_stream_id"], *metadata["breadcrumb"][1:])
            metadata["metadata"]["selected"] = place not in deselected
    return catalog


def test_messages_come_in_the_order_that_the_loader_needs(run):
    """SCHEMAs first; for each page its events, its rejections, its own record, its STATE."""
    outline = run().outline
    assert outline == [
        "SCHEMA events",
        "SCHEMA pages",
        "SCHEMA rejected_events",
        "RECORD events x5",
        "RECORD pages",
        "STATE",
        "RECORD events x5",
        "RECORD rejected_events x2",
        "RECORD pages",
        "STATE",
        "RECORD events",
        "RECORD pages",
        "STATE",
        "SCHEMA pages",
        "STATE",
        "SCHEMA rejected_events",
        "STATE",
    ]


def test_each_state_names_the_page_behind_its_records(run):
    """And the last one a finished walk, every key still there."""
    output = run()
    assert [bookmark["cursor"] for bookmark in output.bookmarks[:3]] == ["c5", "c11", None]
    assert [bookmark["events_seen"] for bookmark in output.bookmarks[:3]] == [5, 11, 12]
    last = output.bookmarks[-1]
    assert last == output.bookmarks[2]
    assert last["complete_to"] == "2026-01-27T12:00:00.000000Z"
    assert (last["walk"], last["loaded"], last["cursor_expires_at"]) == (None, [], None)
    assert set(last) == set(output.bookmarks[0])
    for message in output.of("STATE"):
        assert set(message["value"]["bookmarks"]) <= {"events", "pages", "rejected_events"}
        assert message["value"]["bookmarks"].get("pages", {}) == {}


def test_records_are_what_the_schema_says(run):
    """Snake case, RFC 3339, objects as objects, and when they were extracted."""
    output = run()
    assert output.rows()[0] == {
        "id": "id-000000",
        "session_id": "session-0",
        "user_id": "user-0",
        "type": "page_view",
        "name": "event_abc123",
        "properties": {"page": "/home"},
        "timestamp": "2026-01-27T12:00:00Z",
        "session": {"id": "session-0", "deviceType": "mobile", "browser": "Edge"},
    }
    assert [row["id"] for row in output.rows()] == [f"id-{n:06}" for n in [*range(10), 11]]
    message = output.of("RECORD", "events")[0]
    assert message["time_extracted"] == "2026-01-27T12:00:00Z"
    (schema,) = output.of("SCHEMA", "events")
    assert schema["key_properties"] == ["id"]
    assert set(schema["schema"]["properties"]) == set(output.rows()[0])


def test_rejected_events_hold_the_event_as_it_came(run):
    """With the reasons, the run and the page."""
    first, second = run().rows("rejected_events")
    assert (first["event_id"], first["reasons"]) == ("id-000009", ["type: is not a string"])
    assert json.loads(first["raw"]) == event(9, type=5)
    assert (second["event_id"], second["reasons"]) == (None, ["id: missing"])
    assert first["run_id"] == second["run_id"]
    assert first["page"] == 2
    assert len(first["rejection_id"]) == 64


def test_each_page_is_told_as_a_record(run):
    """What came, what was done with it, what was left of the limit."""
    first, second, third = run(headers=limits(10, 4, 33)).rows("pages")
    assert first == {
        "run_id": second["run_id"],
        "page": 1,
        "requested_at": "2026-01-27T12:00:00.000000Z",
        "received_at": "2026-01-27T12:00:00.000000Z",
        "bytes": len(PAGES[None]),
        "events": 5,
        "emitted": 5,
        "skipped": 0,
        "rejected": 0,
        "retries": {},
        "waited": 0.0,
        "budget_limit": 10,
        "budget_remaining": 4,
        "budget_reset": 33,
        "cursor_expires_at": "2026-01-27T12:01:56.000000Z",
        "oldest": "2026-01-27T11:59:56.000000Z",
        "newest": "2026-01-27T12:00:00.000000Z",
        "events_seen": 5,
        "total_events": 12,
    }
    assert (second["emitted"], second["rejected"], second["events"]) == (5, 2, 6)
    assert third["cursor_expires_at"] is None


def test_a_second_run_gets_what_is_new_and_says_so_in_its_state(run):
    """The state of a run is the start of the next."""
    state = run().of("STATE")[-1]["value"]
    again = run(
        {None: body_of(*map(event, range(5)), total=12)}, state=state, config={"lookback": 1}
    )
    assert [row["id"] for row in again.rows()] == ["id-000000", "id-000001"]
    assert again.bookmarks[-1]["complete_to"] == state["bookmarks"]["events"]["complete_to"]


def test_a_page_that_emits_nothing_still_moves_the_state(run):
    """Otherwise a walk through what is loaded could never be resumed."""
    bookmark = {
        "version": 1,
        "loaded": [
            {"newest": "2026-01-27T13:00:00Z", "oldest": "2026-01-27T11:59:55.500000Z"},
        ],
    }
    output = run(state={"bookmarks": {"events": bookmark}}, config={"lookback": 60})
    assert output.outline[1:] == [
        "SCHEMA events",
        "SCHEMA pages",
        "SCHEMA rejected_events",
        "RECORD pages",
        "STATE",
        *output.outline[6:],
    ]
    assert output.outline[0] == "STATE"
    assert output.rows("pages")[0]["skipped"] == 5
    assert [b["cursor"] for b in output.bookmarks[1:4]] == ["c5", "c11", None]


def test_a_run_that_fails_has_saved_every_page_before(run):
    """The state that was written last resumes it."""
    pages = PAGES | {"c11": body_of(event(11), nextCursor=None, hasMore=False, total=99)}
    pages |= {"c5": PAGES["c5"].replace(b'"total": 12', b'"total": 99')}
    pages |= {None: PAGES[None].replace(b'"total": 12', b'"total": 99')}
    output = run(pages, error=IncompleteFeedError)
    assert output.bookmarks[-1]["cursor"] == "c11"
    # The page's events are good: they are sent, with a state that asks for it again.
    assert output.rows()[-1]["id"] == "id-000011"
    resumed = run(state=output.of("STATE")[-1]["value"])
    assert [row["id"] for row in resumed.rows()] == ["id-000011"]
    assert resumed.bookmarks[-1]["cursor"] is None


def test_the_summary_of_a_failed_run_does_not_say_finished(run, caplog):
    """Also where the API has said that nothing follows."""
    pages = {None: body_of(event(0), nextCursor=None, hasMore=False, total=9)}
    with caplog.at_level(logging.INFO):
        run(pages, error=IncompleteFeedError)
    assert "Walk not finished: 1 pages" in caplog.text
    assert "Walk finished" not in caplog.text


def test_full_table_reads_everything_again(run):
    """By the catalog."""
    state = run().of("STATE")[-1]["value"]
    output = run(state=state, catalog=catalog_with(replication_method="FULL_TABLE"))
    assert len(output.rows()) == 11


NUMBERS = '{"a": 0.12345678901234567890123, "b": 1e400, "c": 123456789012345678901234567890}'
EXACT = {None: last_page(event(0, properties="@@")).replace(b'"@@"', NUMBERS.encode())}


def exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def test_deselected_fields_are_left_out(run):
    """All others stay."""
    output = run(catalog=catalog_with(("events", "session"), ("events", "name")))
    assert len(output.rows()) == 11
    for row in output.rows():
        assert set(row) == {"id", "session_id", "user_id", "type", "properties", "timestamp"}
    assert output.rows()[0]["properties"] == {"page": "/home"}
    assert output.rows()[0]["timestamp"].startswith("2026-01-27T12:00:00")


@pytest.mark.parametrize(
    ("config", "catalog"),
    [
        ({}, None),
        ({"stream_maps": {"events": {"extra": "'x'"}}}, None),
        ({}, [("events", "session")]),
    ],
)
def test_numbers_leave_exactly_on_every_way(monkeypatch, capfd, tmp_path, config, catalog):
    """As they came, past maps and selection."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(EventsStream, "clock", FakeClock())
    with feeding(EXACT) as server:
        tap = TapDataSync(
            config={"api_url": server.url, "api_key": KEY} | config,
            catalog=catalog and catalog_with(*catalog),
        )
        capfd.readouterr()
        tap.sync_all()
    sys.stdout.flush()
    lines = capfd.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith('{"type":"RECORD","stream":"events"')]
    assert exact(line)["record"]["properties"] == exact(NUMBERS)


def test_stream_maps_are_applied(run):
    """A field is added, one is hashed away, a stream is renamed."""
    maps = {"events": {"kind": "name.upper()", "user_id": None, "__alias__": "visits"}}
    output = run(config={"stream_maps": maps})
    assert output.rows() == []
    row = output.rows("visits")[0]
    assert row["kind"] == "EVENT_ABC123"
    assert "user_id" not in row
    assert row["properties"] == {"page": "/home"}
    assert len(output.rows("visits")) == 11


def test_flattening_is_applied(run):
    """An SDK setting like any other."""
    config = {"flattening_enabled": True, "flattening_max_depth": 1}
    row = run(config=config).rows()[0]
    assert row["properties__page"] == "/home"
    assert row["session__browser"] == "Edge"


@pytest.mark.parametrize(
    "left_out", [("pages",), ("rejected_events",), ("pages", "rejected_events")]
)
def test_streams_that_are_not_selected_are_not_written(run, left_out):
    """Neither their SCHEMA nor a record."""
    output = run(catalog=catalog_with(*((name,) for name in left_out)))
    assert {m["stream"] for m in output.messages if "stream" in m} == (
        {"events", "pages", "rejected_events"} - set(left_out)
    )
    assert len(output.rows()) == 11
    assert output.bookmarks[-1]["cursor"] is None


def test_without_the_events_nothing_is_asked(run):
    """The other streams are written while events are read."""
    output = run(catalog=catalog_with(("events",)))
    assert output.of("RECORD") == []


def bulk(tmp_path: Path, **encoding: str) -> dict[str, Any]:
    wanted = {"format": "jsonl", "compression": "none"} | encoding
    root = (tmp_path / "bulk").as_uri()
    return {"batch_config": {"encoding": wanted, "storage": {"root": root}}}


def test_the_bulk_lane_writes_one_file_a_page(run, tmp_path):
    """The same rows as the other lane, one BATCH message before the page's other records."""
    plain = run()
    output = run(config=bulk(tmp_path))
    batches = output.of("BATCH")
    assert [m["encoding"] for m in batches] == [{"format": "jsonl", "compression": "none"}] * 3
    files = [Path(unquote(urlsplit(m["manifest"][0]).path)) for m in batches]
    rows = [json.loads(line) for f in files for line in f.read_text("utf-8").splitlines()]
    assert rows == plain.rows()
    swap = {"RECORD events x5": "BATCH events", "RECORD events": "BATCH events"}
    assert output.outline == [swap.get(word, word) for word in plain.outline]
    assert output.bookmarks == plain.bookmarks


def test_a_page_of_nothing_is_no_file(run, tmp_path):
    """There is nothing for the loader to do."""
    output = run({None: last_page()}, config=bulk(tmp_path))
    assert output.of("BATCH") == []
    assert len(output.rows("pages")) == 1


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"compression": "gzip"}, "must be jsonl without compression"),
        ({"format": "parquet"}, "must be jsonl without compression"),
    ],
)
def test_the_bulk_lane_refuses_what_it_cannot_write(run, tmp_path, config, words):
    """Before any request."""
    from tap_datasync.bulk import BulkDirectoryError  # noqa: PLC0415 - beside its use

    with pytest.raises(BulkDirectoryError, match=words):
        run(config=bulk(tmp_path, **config))


def test_the_bulk_lane_goes_without_maps(run, tmp_path):
    """Its files hold the events as they are."""
    from tap_datasync.bulk import BulkDirectoryError  # noqa: PLC0415 - beside its use

    with pytest.raises(BulkDirectoryError, match="neither with stream maps"):
        run(config=bulk(tmp_path) | {"stream_maps": {"events": {"a": "'x'"}}})


# ------------------------------------------------------------------ the SDK's inside


@pytest.mark.parametrize(
    ("owner", "name", "signature"),
    [
        (Stream, "_sync_records", "(self, context=None, *, write_messages=True)"),
        (Stream, "_sync_batches", "(self, batch_config, context=None)"),
        (Stream, "sync", "(self, context=None)"),
        (Stream, "_write_schema_message", "(self)"),
        (Stream, "_write_record_message", "(self, record)"),
        (Stream, "_check_max_record_limit", "(self, current_record_index)"),
        (Stream, "get_batch_config", "(self, config)"),
        (Stream, "get_records", "(self, context)"),
        (Stream, "get_replication_key_signpost", "(self, context=None)"),
        (Stream, "get_record_counter", "(self, *, endpoint=None, log_interval=60.0)"),
        (Stream, "get_sync_timer", "(self)"),
        (Tap, "_handle_termination", "(self, signum, frame)"),
        (Tap, "load_state", "(self, state)"),
        (Tap, "_validate_config", "(self, *, raise_errors=True)"),
        (StateWriter, "write_state", "(self, state)"),
        (MsgSpecWriter, "write_message", "(self, message)"),
        (MsgSpecWriter, "format_message", "(self, message)"),
    ],
)
def test_what_is_replaced_or_called_inside_the_sdk_has_its_signature(owner, name, signature):
    """A change here is a change to look at, in singer.py."""
    found = inspect.signature(getattr(owner, name))
    plain = found.replace(
        parameters=[p.replace(annotation=p.empty) for p in found.parameters.values()],
        return_annotation=found.empty,
    )
    assert str(plain) == signature


class Probe(PagewiseStream):
    """A stream that notes which loop the SDK runs."""

    name = "probe"
    schema = {"properties": {"a": {"type": "string"}}}  # noqa: RUF012
    batch: Any = None

    def sync_pages(self, batch_config: Any) -> None:
        self.called_with = batch_config

    def get_batch_config(self, config: Any) -> Any:
        del config
        return self.batch


class ProbeTap(Interruptible):
    """A tap of that stream."""

    name = "tap-probe"
    config_jsonschema = {"properties": {}}  # noqa: RUF012
    message_writer_class = PageWriter

    def discover_streams(self) -> list[Stream]:
        return [Probe(self)]


def probe() -> Probe:
    stream = ProbeTap(config={}).streams["probe"]
    assert isinstance(stream, Probe)
    return stream


@pytest.mark.parametrize("batch", [None, "a batch config"])
def test_the_sdk_runs_our_loops_in_place_of_its_own(capfd, batch):
    """``sync`` writes the SCHEMA, then calls ``_sync_records`` or ``_sync_batches``."""
    stream = probe()
    stream.batch = batch
    stream.sync()
    sys.stdout.flush()
    assert stream.called_with == batch
    assert [m["type"] for m in lines_of(capfd.readouterr().out)] == ["SCHEMA"]


def test_a_stream_that_is_synced_by_pages_has_no_records_of_its_own():
    """Nobody calls the SDK's way by mistake."""
    with pytest.raises(NotImplementedError):
        probe().get_records(None)


def test_a_page_stream_needs_a_tap_that_can_be_interrupted():
    """Otherwise a signal would cut a page in two."""

    class Plain(Tap):
        name = "tap-plain"
        config_jsonschema = {"properties": {}}  # noqa: RUF012

        def discover_streams(self) -> list[Stream]:
            return [Probe(self)]

    with pytest.raises(TypeError, match="Interruptible"):
        _ = Plain(config={}).streams["probe"].interruptible


def test_the_base_class_leaves_the_pages_to_its_heirs():
    """A stream without them is no stream."""
    with pytest.raises(NotImplementedError):
        PagewiseStream.sync_pages(probe(), None)


def test_the_record_limit_ends_a_test_run():
    """The SDK raises at the record behind the limit."""
    stream = probe()
    stream.check_record_limit(10**9)
    stream.ABORT_AT_RECORD_COUNT = 3
    stream.replication_key = "a"
    stream.check_record_limit(2)
    with pytest.raises(AbortedSyncPausedException):
        stream.check_record_limit(3)


def test_a_state_is_written_once_and_not_again_unchanged(capfd):
    """The SDK's writer compares with the last one."""
    stream = probe()
    stream.save_state({"a": 1})
    stream.save_state({"a": 1})
    stream.save_state({"a": 2})
    states = [m["value"]["bookmarks"]["probe"] for m in lines_of(capfd.readouterr().out)]
    assert states == [{"a": 1}, {"a": 2}]


def test_records_pass_as_they_are_only_where_nothing_is_to_be_done():
    """The SDK's class for an unchanged record decides, and selection."""
    stream = probe()
    assert type(stream.stream_maps[0]) is SameRecordTransform
    assert stream.passes_records_on


def test_the_writer_encodes_a_struct_like_a_dictionary(capfd):
    """Rows are structs, and their JSON parts are passed through."""

    class Row(msgspec.Struct):
        id: str
        properties: msgspec.Raw

    writer = PageWriter()
    writer.write_message(RecordMessage("events", Row("a", msgspec.Raw(b'{"b":1.50}'))))
    sys.stdout.flush()
    line = capfd.readouterr().out
    assert (
        line == '{"type":"RECORD","stream":"events","record":{"id":"a","properties":{"b":1.50}}}\n'
    )


def test_the_sdk_takes_signals_through_the_method_that_is_replaced():
    """SIGTERM and SIGINT, from the moment the tap is made."""
    tap = ProbeTap(config={})
    for number in (signal.SIGTERM, signal.SIGINT):
        assert signal.getsignal(number) == tap._handle_termination


def test_a_signal_between_two_pages_ends_at_once():
    """With the exit code of the signal."""
    with pytest.raises(TerminatedError) as error:
        ProbeTap(config={})._handle_termination(signal.SIGTERM, None)
    assert error.value.exit_code == 143


def test_a_signal_within_a_page_waits_for_its_end(monkeypatch):
    """A second one changes nothing; a target that does not read has eight seconds."""
    alarms: list[int] = []
    monkeypatch.setattr(signal, "alarm", alarms.append)
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    tap = ProbeTap(config={})
    tap.begin_page()
    tap._handle_termination(signal.SIGINT, None)
    tap._handle_termination(signal.SIGTERM, None)
    with pytest.raises(TerminatedError) as error:
        tap.end_page()
    assert error.value.exit_code == 130
    assert alarms == [8]
    signal.raise_signal(signal.SIGALRM)
    assert exits == [130]


# ------------------------------------------------------------------ signals, for real

BIG = body_of(*map(event, range(5000)), nextCursor="c5000", total=5001)


@contextmanager
def started(tmp_path: Path, url: str, prelude: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start the tap as a program; ``prelude`` runs before it."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"api_url": url, "api_key": KEY}))
    program = f"{prelude}\nfrom tap_datasync.tap import main; main()"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=tmp_path,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def read_until(process: subprocess.Popen[str], kind: str) -> str:
    assert process.stdout is not None
    read = ""
    while f'"type":"{kind}"' not in (line := process.stdout.readline()):
        assert line, "the tap ended early"
        read += line
    return read + line


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_the_middle_of_a_page_lets_it_be_finished(tmp_path, number, code):
    """The page is whole, its STATE follows, the last line is complete."""
    with feeding({None: BIG}) as server, started(tmp_path, server.url) as tap:
        output = read_until(tap, "RECORD")
        # A page is far larger than a pipe: the tap is writing, and waits for us.
        tap.send_signal(number)
        output += tap.communicate()[0]
    messages = Output(output)
    assert tap.returncode == code
    assert len(messages.rows()) == 5000
    assert messages.messages[-1]["type"] == "STATE"
    assert messages.bookmarks[-1]["cursor"] == "c5000"
    log = (tmp_path / "log").read_text()
    assert "Stopped by a signal" in log.splitlines()[-1]
    assert "Traceback" not in log


def test_a_signal_while_the_limit_is_waited_for_ends_at_once(tmp_path):
    """What was saved stays saved."""
    with (
        feeding({None: PAGES[None]}, limits(1, 0, 60)) as server,
        started(tmp_path, server.url) as tap,
    ):
        output = read_until(tap, "STATE")
        tap.send_signal(signal.SIGTERM)
        output += tap.communicate()[0]
    messages = Output(output)
    assert tap.returncode == 143
    assert messages.messages[-1]["type"] == "STATE"
    assert messages.bookmarks[-1]["cursor"] == "c5"
    assert len(server.requests) == 1


def test_a_target_that_does_not_read_does_not_hold_the_tap(tmp_path):
    """The tap has a time, then it just ends."""
    prelude = "import tap_datasync.singer as s; s.GRACE = 1"
    with feeding({None: BIG}) as server, started(tmp_path, server.url, prelude) as tap:
        read_until(tap, "RECORD")
        tap.send_signal(signal.SIGTERM)
        assert tap.wait() == 143


def test_a_target_that_ends_is_told_in_a_sentence(tmp_path):
    """No traceback, and not the interpreter's own exit code."""
    with feeding({None: BIG}) as server, started(tmp_path, server.url) as tap:
        read_until(tap, "RECORD")
        assert tap.stdout is not None
        tap.stdout.close()
        assert tap.wait() == 1
        tap.stdout = None
    log = (tmp_path / "log").read_text()
    assert log.splitlines()[-1].endswith("The target has stopped reading.")
    assert "Traceback" not in log
    assert "Exception ignored" not in log
