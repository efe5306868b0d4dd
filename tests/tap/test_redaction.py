"""Log records have no secrets and no control characters, in any format."""

from __future__ import annotations

import io
import json
import logging

import pytest
from singer_sdk.logging import ConsoleFormatter, StructuredFormatter
from tap_datasync.redaction import MASK, MAX_MESSAGE_CHARACTERS, RedactingFilter, install
from tap_helpers import KEY


class Log:
    """A logger with its own handlers, and their output."""

    def __init__(self, *formatters: logging.Formatter) -> None:
        self.logger = logging.Logger("tests.redaction")  # noqa: LOG001 - without parents
        self.streams = [io.StringIO() for _ in formatters]
        for stream, formatter in zip(self.streams, formatters, strict=True):
            handler = logging.StreamHandler(stream)
            handler.setFormatter(formatter)
            handler.addFilter(RedactingFilter(KEY, ""))
            self.logger.addHandler(handler)

    @property
    def written(self) -> str:
        return "".join(stream.getvalue() for stream in self.streams)


FORMATTERS = {
    "console": [ConsoleFormatter()],
    "structured": [StructuredFormatter()],
    "both": [ConsoleFormatter(), StructuredFormatter()],
}


@pytest.fixture(params=sorted(FORMATTERS))
def log(request):
    return Log(*FORMATTERS[request.param])


def fail(message: str) -> None:
    raise ValueError(message)


def test_the_key_is_not_in_messages_or_arguments(log):
    log.logger.error("the key is " + KEY)  # noqa: G003 - on purpose
    log.logger.error("the key is %s", KEY)
    log.logger.error("of %(a)s", {"a": {"api_key": KEY}})
    assert KEY not in log.written
    assert all(stream.getvalue().count(MASK) >= 3 for stream in log.streams)


def test_the_key_is_not_in_exceptions(log):
    try:
        try:
            fail(f"bad header {KEY!r}")
        except ValueError as error:
            raise RuntimeError(f"cannot send {KEY}") from error  # noqa: EM102, TRY003
    except RuntimeError:
        log.logger.exception("it failed")
    assert KEY not in log.written
    assert "it failed" in log.written


def test_the_key_is_not_in_an_exception_that_was_formatted_before():
    log = Log(ConsoleFormatter())
    unfiltered = logging.StreamHandler(io.StringIO())
    log.logger.handlers.insert(0, unfiltered)
    try:
        fail(KEY)
    except ValueError:
        log.logger.exception("it failed")
    assert KEY not in log.written
    assert MASK in log.written


def test_other_records_are_unchanged(log):
    try:
        fail("harmless")
    except ValueError:
        log.logger.exception("%d of %d", 1, 2)
    assert "1 of 2" in log.written
    assert "harmless" in log.written
    assert "Traceback" in log.written or '"traceback"' in log.written


def test_structured_records_are_valid_json():
    log = Log(StructuredFormatter())
    try:
        fail(KEY)
    except ValueError:
        log.logger.exception("with %s", KEY)
    assert json.loads(log.written)["message"] == f"with {MASK}"


def test_filter_is_installed_on_every_root_handler(monkeypatch):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    install(KEY)
    logging.getLogger("urllib3.connectionpool").error("GET /?key=%s", KEY)
    assert stream.getvalue() == f"GET /?key={MASK}\n"
    install(KEY)
    assert len(handler.filters) == 1, "a process that creates many taps filters once"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a\nERROR forged", "a\\nERROR forged"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\u202eright to left", "\\u202eright to left"),
        ("\ud800", "\\ud800"),
        ("\x00\r\t", "\\x00\\r\\t"),
        ("événement 日本 \U0001f600", "événement 日本 \U0001f600"),
    ],
)
def test_control_characters_are_escaped(text, written):
    log = Log(logging.Formatter("%(message)s"))
    log.logger.warning("Undocumented field %s", text)
    assert log.written == f"Undocumented field {written}\n"


def test_control_characters_in_exceptions_are_escaped():
    log = Log(ConsoleFormatter())
    try:
        fail("a\x1b[31mb")
    except ValueError:
        log.logger.exception("it failed")
    assert "\x1b[31mb" not in log.written
    assert "a\\x1b[31mb" in log.written
    assert log.written.count("\n") > 2


def test_long_messages_are_truncated():
    log = Log(logging.Formatter("%(message)s"))
    log.logger.warning("x" * 10**6)
    assert len(log.written) < MAX_MESSAGE_CHARACTERS + 50
    assert log.written.endswith("... (1000000 characters)\n")
