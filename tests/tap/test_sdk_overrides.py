"""Every part of the SDK that the tap overrides or calls although it is private."""

from __future__ import annotations

import inspect
import os
import signal
import threading

import pytest
from singer_sdk import Stream, Tap
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.helpers import _util
from singer_sdk.helpers._state import StateWriter
from tap_datasync import sdk_overrides
from tap_datasync.sdk_overrides import (
    SHUTDOWN_SECONDS,
    GracefulShutdownTap,
    PagedStream,
    PageWriter,
)
from tap_datasync.signals import SIGNALS, TerminatedError
from tap_datasync.tap import TapDataSync

from tests.tap.tap_helpers import lines_of

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


def test_every_override_is_in_the_list_above_and_the_private_ones_have_a_reason():
    overridden = {
        name
        for owner in (GracefulShutdownTap, PagedStream, PageWriter)
        for name in vars(owner)
        if any(hasattr(base, name) for base in owner.__mro__[1:]) and not name.startswith("__")
    }
    overridden -= {"_abc_impl", "abstract_methods"}
    assert overridden <= {name for _, name in SIGNATURES}
    assert sdk_overrides.__doc__ is not None
    for name in overridden:
        assert name in sdk_overrides.__doc__ or not name.startswith("_")


@pytest.fixture
def tap():
    return TapDataSync(config={}, validate_config=False)


@pytest.fixture
def stream(tap):
    return tap.streams["events"]


def test_a_paged_stream_has_only_pages(stream):
    with pytest.raises(NotImplementedError):
        stream.get_records(None)
    with pytest.raises(NotImplementedError):
        PagedStream.sync_pages(stream)


def test_a_state_is_written_once_and_not_again_unchanged(stream, capfd):
    """The SDK's writer compares with the last one."""
    stream.save_state({"a": 1})
    stream.save_state({"a": 1})
    stream.save_state({"a": 2})
    states = [m["value"]["bookmarks"]["events"] for m in lines_of(capfd.readouterr().out)]
    assert states == [{"a": 1}, {"a": 2}]


def test_records_are_emitted_unchanged_where_nothing_is_to_be_done(stream):
    """The SDK's class for an unchanged record decides, and selection."""
    assert stream.emits_unchanged


def test_a_tap_in_a_thread_sets_no_handlers(tap):
    """Python allows them in the main thread only."""
    thread = threading.Thread(target=lambda: TapDataSync(config={}, validate_config=False))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == tap._handle_termination


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_between_two_pages_ends_the_tap_at_once(tap, number):
    with pytest.raises(TerminatedError) as error:
        tap._handle_termination(number, None)
    assert error.value.exit_code == 128 + number


def test_a_signal_within_a_page_waits_for_its_end(tap, monkeypatch):
    """A second one changes nothing; a target that does not read has eight seconds."""
    alarms: list[int] = []
    monkeypatch.setattr(signal, "alarm", alarms.append)
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    with pytest.raises(TerminatedError) as error, tap.whole_page():
        tap._handle_termination(signal.SIGINT, None)
        tap._handle_termination(signal.SIGTERM, None)
    assert error.value.exit_code == 130
    assert alarms == [SHUTDOWN_SECONDS]
    signal.raise_signal(signal.SIGALRM)
    assert exits == [130]
