"""What the tap relies on inside the SDK."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from typing import Any

import msgspec
import pytest
from singer_sdk import Stream, Tap
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.exceptions import AbortedSyncPausedException
from singer_sdk.helpers._state import StateWriter
from singer_sdk.mapper import SameRecordTransform
from singer_sdk.singerlib import RecordMessage
from tap_datasync.singer import Interruptible, PagewiseStream, PageWriter, TerminatedError
from tap_helpers import lines_of


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
