"""The tap: its settings, its streams, and how a run ends."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, ClassVar, NoReturn

import msgspec
from singer_sdk.exceptions import ConfigValidationError, MappingError
from singer_sdk.helpers.capabilities import (
    CapabilitiesEnum,
    PluginCapabilities,
    TapCapabilities,
)
from typing_extensions import override

from tap_datasync.config import SETTINGS
from tap_datasync.errors import EXIT_CONFIG, EXIT_RETRY, TapDataSyncError, UsageError
from tap_datasync.sdk_overrides import GracefulShutdownTap, PageWriter, read_document
from tap_datasync.signals import TerminatedError, ignore_signals
from tap_datasync.state import ScanState, StateError
from tap_datasync.streams import EventsStream, PagesStream, RejectedEventsStream

if TYPE_CHECKING:
    from singer_sdk import Stream


class TapDataSync(GracefulShutdownTap):
    """Singer tap for the DataSync analytics events API."""

    name = "tap-datasync"
    package_name = "tap-datasync"
    config_jsonschema: ClassVar[dict[str, Any]] = SETTINGS.to_dict()
    message_writer_class = PageWriter
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        capability
        for capability in GracefulShutdownTap.capabilities
        # No event is ever deleted at the source, so no version of the table expires. And
        # RECORD messages are loaded by COPY, so files in between would gain nothing.
        if capability not in {TapCapabilities.ACTIVATE_VERSION, PluginCapabilities.BATCH}
    ]

    @override
    def discover_streams(self) -> list[Stream]:
        return [EventsStream(self), PagesStream(self), RejectedEventsStream(self)]

    @override
    def load_state(self, state: dict[str, Any]) -> None:
        """Replace the SDK's way, which copies keys from any document."""
        if not state:
            return
        bookmarks = state.get("bookmarks")
        if not isinstance(bookmarks, dict):
            reason = "it has no bookmarks"
            raise StateError(reason)
        for name, bookmark in bookmarks.items():
            if name not in self.streams or not isinstance(bookmark, dict):
                reason = f"its bookmark '{name}' is not of this tap"
                raise StateError(reason)
        try:
            msgspec.json.encode(state)
        except (UnicodeEncodeError, ValueError, TypeError):
            reason = "it holds text that is not valid Unicode"
            raise StateError(reason) from None
        events = ScanState.from_dict(bookmarks.get(EventsStream.name, {}))
        # The streams hold the same object.
        self.state["bookmarks"] = {EventsStream.name: events.to_dict()}

    @override
    @classmethod
    def invoke(
        cls,
        *,
        state: IO[str] | None = None,
        catalog: IO[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if state is not None:
            state = read_document(state, "state")
        if catalog is not None:
            catalog = read_document(catalog, "catalog")
        try:
            super().invoke(state=state, catalog=catalog, **kwargs)
            sys.stdout.flush()
        except ConfigValidationError as error:
            raise UsageError(_join(error)) from None
        except BrokenPipeError as error:
            # Handled here, because click hides it.
            _exit_without_output(error)


def run() -> NoReturn:
    """Run the tap and exit; a failure ends in one plain message.

    Exit codes: 0 the scan is finished; 1 it is not, try again; 2 invalid configuration;
    3 permanent error; 128 + n ended by signal n.
    """
    logger = logging.getLogger(TapDataSync.name)
    try:
        if sys.stdout is None:
            _exit("Standard output is closed.", EXIT_CONFIG)
        TapDataSync.cli()
    except SystemExit:
        raise
    except TapDataSyncError as error:
        _exit(str(error), error.exit_code)
    except ConfigValidationError as error:  # From --test, which does not pass through `invoke`.
        _exit(_join(error), EXIT_CONFIG)
    except (MappingError, SyntaxError) as error:
        _exit(f"The setting 'stream_maps' cannot be applied: {error}", EXIT_CONFIG)
    except OSError as error:
        # Requests raise errors of their own, so it is standard output that failed.
        _exit_without_output(error)
    except TerminatedError as error:
        _log_exit(str(error), error.exit_code, level=logging.WARNING)
        with suppress(OSError):
            sys.stdout.flush()
        # At its own end the interpreter would let the next signal kill it.
        os._exit(error.exit_code)
    except Exception as error:
        logger.exception("Unexpected error")
        _exit(f"Internal error: {type(error).__name__}. Please report it.", EXIT_RETRY)
    finally:
        ignore_signals()
    sys.exit(0)


def _join(error: ConfigValidationError) -> str:
    return " ".join(text if text.endswith((".", "?")) else f"{text}." for text in error.errors)


def _exit_without_output(error: OSError) -> NoReturn:
    # The interpreter flushes standard output once more at its end, and would fail there.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        _exit("The target has stopped reading. Try again later.", EXIT_RETRY)
    _exit(f"Cannot write to standard output: {error.strerror}. Try again later.", EXIT_RETRY)


def _exit(message: str, code: int) -> NoReturn:
    _log_exit(message, code)
    sys.exit(code)


def _log_exit(message: str, code: int, *, level: int = logging.CRITICAL) -> None:
    # Meltano passes the exit code on as a field of the log line.
    logging.getLogger(TapDataSync.name).log(level, message, extra={"exit_code": code})
