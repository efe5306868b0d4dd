"""Every part of the SDK that the tap overrides or calls although it is private."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from singer_sdk import Stream, Tap
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.exceptions import AbortedSyncPausedException, ConfigValidationError
from singer_sdk.helpers import _util
from singer_sdk.helpers._state import StateWriter
from singer_sdk.mapper import SameRecordTransform
from singer_sdk.plugin_base import PluginBase, _ConfigInput
from singer_sdk.singerlib import RecordMessage
from tap_datasync import sdk_overrides
from tap_datasync.sdk_overrides import (
    SHUTDOWN_SECONDS,
    GracefulShutdownTap,
    PagedStream,
    PageWriter,
)
from tap_datasync.signals import SIGNALS, TerminatedError
from tap_helpers import lines_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURES = {
    (Stream, "_sync_records"): "(self, context=None, *, write_messages=True)",
    (Stream, "_write_schema_message"): "(self)",
    (Stream, "_write_record_message"): "(self, record)",
    (Stream, "_check_max_record_limit"): "(self, current_record_index)",
    (Stream, "sync"): "(self, context=None)",
    (Stream, "log"): "(self, message, *args, level=20, **kwargs)",
    (Stream, "get_records"): "(self, context)",
    (Stream, "get_replication_key_signpost"): "(self, context=None)",
    (Stream, "get_record_counter"): "(self, *, endpoint=None, log_interval=60.0)",
    (Stream, "get_sync_timer"): "(self)",
    (Tap, "_handle_termination"): "(self, signum, frame)",
    (Tap, "_setup_signal_handlers"): "(self)",
    (Tap, "_validate_config"): "(self, *, raise_errors=True)",
    (Tap, "load_state"): "(self, state)",
    (Tap, "append_builtin_config"): "(config_jsonschema)",
    (Tap, "cb_config"): "(ctx, param, value)",
    (StateWriter, "write_state"): "(self, state)",
    (MsgSpecWriter, "write_message"): "(self, message)",
    (MsgSpecWriter, "format_message"): "(self, message)",
    (_util, "load_json"): "(json_str, **kwargs)",
}


@pytest.mark.parametrize(("owner", "name"), SIGNATURES)
def test_what_is_overridden_or_called_has_its_signature(owner, name):
    found = inspect.signature(getattr(owner, name))
    plain = found.replace(
        parameters=[p.replace(annotation=p.empty) for p in found.parameters.values()],
        return_annotation=found.empty,
    )
    assert str(plain) == SIGNATURES[owner, name]


def test_every_override_of_a_private_method_is_in_the_list_above():
    overridden = {
        name
        for owner in (GracefulShutdownTap, PagedStream, PageWriter)
        for name in vars(owner)
        if any(hasattr(base, name) for base in owner.__mro__[1:]) and not name.startswith("__")
    }
    inherited = {"_abc_impl", "abstract_methods"}
    assert overridden - inherited <= {name for _, name in SIGNATURES}


class ProbeStream(PagedStream):
    """A stream that records what the SDK calls."""

    name = "probe"
    schema = {"properties": {"a": {"type": "string"}}}  # noqa: RUF012
    syncs = 0

    def sync_pages(self) -> None:
        self.syncs += 1


class ProbeTap(GracefulShutdownTap):
    """A tap of that stream."""

    name = "tap-probe"
    config_jsonschema = {"properties": {"share": {"type": ["number", "null"]}}}  # noqa: RUF012
    message_writer_class = PageWriter

    def discover_streams(self) -> list[Stream]:
        return [ProbeStream(self)]

    def validate(self, config: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
        del known
        yield from config.get("errors", ())

    def read_state(self, state: dict[str, Any]) -> dict[str, Any]:
        return {"read": True, **state} if state else {}


def probe() -> ProbeStream:
    stream = ProbeTap(config={}).streams["probe"]
    assert isinstance(stream, ProbeStream)
    return stream


def test_the_sdk_runs_the_loop_of_the_stream_in_place_of_its_own(capfd):
    """``sync`` writes the SCHEMA, then calls ``_sync_records``."""
    stream = probe()
    stream.sync()
    sys.stdout.flush()
    assert stream.syncs == 1
    assert [m["type"] for m in lines_of(capfd.readouterr().out)] == ["SCHEMA"]


def test_a_paged_stream_has_no_records_of_its_own():
    with pytest.raises(NotImplementedError):
        probe().get_records(None)


def test_a_paged_stream_needs_a_tap_that_completes_pages():
    class Plain(Tap):
        name = "tap-plain"
        config_jsonschema = {"properties": {}}  # noqa: RUF012

        def discover_streams(self) -> list[Stream]:
            return [ProbeStream(self)]

    with pytest.raises(TypeError, match="GracefulShutdownTap"):
        _ = Plain(config={}).streams["probe"].tap


@pytest.mark.parametrize("method", ["validate", "read_state"])
def test_the_base_class_leaves_settings_and_state_to_its_subclasses(method):
    arguments = [{}] * (2 if method == "validate" else 1)
    with pytest.raises(NotImplementedError):
        getattr(GracefulShutdownTap, method)(None, *arguments)
    with pytest.raises(NotImplementedError):
        PagedStream.sync_pages(probe())


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


def test_a_state_is_loaded_as_it_was_read_and_seen_by_the_streams():
    tap = ProbeTap(config={}, state={"bookmarks": {"probe": {"a": 1}}})
    assert tap.state["read"] is True
    assert tap.streams["probe"].stream_state == {"a": 1}


def test_records_are_emitted_unchanged_only_where_nothing_is_to_be_done():
    """The SDK's class for an unchanged record decides, and selection."""
    stream = probe()
    assert type(stream.stream_maps[0]) is SameRecordTransform
    assert stream.emits_unchanged


def test_the_writer_encodes_a_struct_like_a_dictionary(capfd):
    """Records are structs, and their JSON parts are passed through."""

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


# ------------------------------------------------------------------ settings


def test_settings_are_validated_beyond_their_schema():
    with pytest.raises(ConfigValidationError) as error:
        ProbeTap(config={"errors": ["One.", "Two."]})
    assert error.value.errors == ["One.", "Two."]
    assert ProbeTap(config={"errors": ["One."]}, validate_config=False).config


def test_numbers_are_read_from_text_and_null_is_not_set():
    assert ProbeTap(config={"share": "2.5"}).config["share"] == 2.5
    assert "share" not in ProbeTap(config={"share": None}).config


def test_the_environment_is_checked_only_where_it_is_read(monkeypatch):
    monkeypatch.setenv("TAP_PROBE_SHARE", "many")
    ProbeTap.check_environment(None)
    ProbeTap.check_environment(_ConfigInput(parse_env=False))
    assert isinstance(inspect.getattr_static(PluginBase, "_env_var_config"), object)
    assert ProbeTap._env_var_config == {"share": "many"}


# ------------------------------------------------------------------ signals


def test_the_sdk_sets_the_handlers_for_all_signals():
    tap = ProbeTap(config={})
    for number in SIGNALS:
        assert signal.getsignal(number) == tap._handle_termination


def test_an_ignored_hangup_stays_ignored():
    """A run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ProbeTap(config={})
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_tap_in_a_thread_sets_no_handlers():
    """Python allows them in the main thread only."""
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: ProbeTap(config={}))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_between_two_pages_ends_the_tap_at_once(number):
    with pytest.raises(TerminatedError) as error:
        ProbeTap(config={})._handle_termination(number, None)
    assert error.value.exit_code == 128 + number


def test_a_signal_within_a_page_waits_for_its_end(monkeypatch):
    """A second one changes nothing; a target that does not read has eight seconds."""
    alarms: list[int] = []
    monkeypatch.setattr(signal, "alarm", alarms.append)
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    tap = ProbeTap(config={})
    with pytest.raises(TerminatedError) as error, tap.whole_page():
        tap._handle_termination(signal.SIGINT, None)
        tap._handle_termination(signal.SIGTERM, None)
    assert error.value.exit_code == 130
    assert alarms == [SHUTDOWN_SECONDS]
    signal.raise_signal(signal.SIGALRM)
    assert exits == [130]


def test_the_reasons_name_every_private_part():
    """The module's own list is complete."""
    assert sdk_overrides.__doc__ is not None
    for name in ("_sync_records", "_handle_termination", "_validate_config", "load_state"):
        assert name in sdk_overrides.__doc__
