"""The tap: settings, streams, and how it ends."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, ClassVar, NoReturn

from singer_sdk.exceptions import ConfigValidationError, MappingError
from singer_sdk.helpers._util import load_json
from singer_sdk.helpers.capabilities import CapabilitiesEnum, TapCapabilities
from singer_sdk.singerlib import Catalog
from typing_extensions import override

from tap_datasync import redaction
from tap_datasync.bookmark import DAMAGED, BookmarkError
from tap_datasync.config import SETTINGS, problems
from tap_datasync.failures import EXIT_CONFIG, EXIT_TRY_AGAIN, TapDataSyncError
from tap_datasync.singer import Interruptible, PageWriter, TerminatedError
from tap_datasync.streams import EventsStream, PagesStream, RejectedEventsStream

if TYPE_CHECKING:
    import click
    from singer_sdk import Stream
    from singer_sdk.plugin_base import _ConfigInput


class UsageError(TapDataSyncError):
    """A setting or a file given on the command line cannot be used."""

    exit_code = EXIT_CONFIG


class TapDataSync(Interruptible):
    """Singer tap for the DataSync analytics events API."""

    name = "tap-datasync"
    package_name = "tap-datasync"
    config_jsonschema: ClassVar[dict[str, Any]] = SETTINGS.to_dict()
    message_writer_class = PageWriter
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        capability
        for capability in Interruptible.capabilities
        # No event is ever deleted at the source, so no version of the table expires.
        if capability is not TapCapabilities.ACTIVATE_VERSION
    ]

    @override
    def discover_streams(self) -> list[Stream]:
        return [EventsStream(self), PagesStream(self), RejectedEventsStream(self)]

    @override
    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        # A setting that is null is one that is not set.
        self._config = {k: v for k, v in self._config.items() if v is not None}
        key = self._config.get("api_key")
        redaction.install("" if key is None else str(key))
        for name in ("lookback", "request_timeout"):
            # The environment holds text, and the SDK reads only whole numbers from it.
            with suppress(ValueError):
                if isinstance(self._config.get(name), str):
                    self._config[name] = float(self._config[name])
        self.append_builtin_config(self.config_jsonschema)
        errors = list(problems(self._config, self.config_jsonschema["properties"]))
        if errors and raise_errors:
            raise ConfigValidationError(
                " ".join(errors), errors=errors, schema=self.config_jsonschema
            )
        return errors or super()._validate_config(raise_errors=raise_errors)

    @override
    def load_state(self, state: dict[str, Any]) -> None:
        bookmarks = state.get("bookmarks", {})
        if not isinstance(bookmarks, dict) or not all(
            isinstance(bookmark, dict) for bookmark in bookmarks.values()
        ):
            raise BookmarkError(DAMAGED)
        super().load_state(state)

    @override
    @classmethod
    def cb_config(
        cls, ctx: click.Context, param: click.Option, value: tuple[str, ...]
    ) -> _ConfigInput:
        try:
            return super().cb_config(ctx, param, value)
        except FileNotFoundError as error:
            raise UsageError(str(error)) from None
        except (OSError, ValueError, TypeError):
            # Nothing of the file is repeated: the key is in it.
            msg = f"The config ({', '.join(value)}) is not a file that holds a JSON object."
            raise UsageError(msg) from None

    @override
    @classmethod
    def invoke(
        cls,
        *,
        config: _ConfigInput | None = None,
        state: IO[str] | None = None,
        catalog: IO[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if config is not None and config.parse_env:
            try:
                _ = cls._env_var_config
            except ValueError as error:
                msg = f"A setting in the environment is not valid: {error}."
                raise UsageError(msg) from None
        try:
            super().invoke(
                config=config,
                state=_json_object(state, "state"),
                catalog=_json_object(catalog, "catalog"),
                **kwargs,
            )
        except ConfigValidationError as error:
            raise UsageError(_sentences(error)) from None
        except BrokenPipeError:
            # Told here, because click swallows it. The interpreter flushes once more at
            # its end, and would fail there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _end("The target has stopped reading.", EXIT_TRY_AGAIN)


def _sentences(error: ConfigValidationError) -> str:
    return " ".join(text if text.endswith((".", "?")) else f"{text}." for text in error.errors)


def _json_object(file: IO[str] | None, option: str) -> IO[str] | None:
    """Return the file's text anew, after a look at what it holds."""
    if file is None:
        return None
    try:
        text = file.read()
        document = load_json(text)
        if not isinstance(document, dict):
            raise TypeError  # noqa: TRY301 - told like all the others
        if option == "catalog":
            Catalog.from_dict(document)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        msg = f"The file given with --{option} does not hold a {option} as JSON."
        raise UsageError(msg) from None
    return io.StringIO(text)


def main() -> None:
    """Run the tap, and end a failure in one plain sentence.

    Exit codes: 0 the walk is finished; 1 it is not, and trying again may help; 2 bad
    config; 3 waiting cannot mend it; 128 + n ended by signal n.
    """
    logger = logging.getLogger(TapDataSync.name)
    try:
        TapDataSync.cli()
    except TapDataSyncError as error:
        _end(str(error), error.exit_code)
    except ConfigValidationError as error:  # From --test, which does not pass by `invoke`.
        _end(_sentences(error), EXIT_CONFIG)
    except (MappingError, SyntaxError) as error:
        _end(f"The setting 'stream_maps' cannot be applied: {error}", EXIT_CONFIG)
    except TerminatedError as error:
        logger.warning("Stopped by a signal; what is saved is resumed next time.")
        sys.exit(error.exit_code)
    except Exception as error:
        logger.exception("This should not happen")
        _end(f"The tap has a fault: {type(error).__name__}. Please report it.", EXIT_TRY_AGAIN)


def _end(sentence: str, code: int) -> NoReturn:
    logging.getLogger(TapDataSync.name).critical(sentence)
    sys.exit(code)
