"""Log records have no secrets and no control characters, in any format."""

from __future__ import annotations

import io
import json
import logging

import pytest
from singer_sdk.logging import ConsoleFormatter, StructuredFormatter
from tap_datasync.redaction import MASK, MAX_MESSAGE_CHARACTERS, RedactingFilter, install

from tests.tap.tap_helpers import KEY


class Log:
    """A logger with its own handlers, and their output."""

    def __init__(self, *formatters: logging.Formatter) -> None:
        self.logger = logging.Logger("tests.redaction")  # noqa: LOG001 - without parents
        self.streams = [io.StringIO() for _ in formatters]
        for stream, formatter in zip(self.streams, formatters, strict=True):
            handler = logging.StreamHandler(stream)
            handler.setFormatter(formatter)
            handler.addFilter(RedactingFilter(KEY))
            self.logger.addHandler(handler)

    def write_exception(self, text: str) -> None:
        try:
            try:
                raise ValueError(text)
            except ValueError as error:
                message = f"while sending {text}"
                raise RuntimeError(message) from error
        except RuntimeError:
            self.logger.exception("%d of %d failed", 1, 2)

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


def test_the_key_is_not_in_messages_or_arguments(log):
    log.logger.error("the key is " + KEY)  # noqa: G003 - on purpose
    log.logger.error("the key is %s", KEY)
    log.logger.error("of %(a)s", {"a": {"api_key": KEY}})
    assert KEY not in log.written
    assert all(stream.getvalue().count(MASK) >= 3 for stream in log.streams)


def test_neither_key_nor_control_characters_are_in_exceptions(log):
    log.write_exception(f"{KEY} a\x1b[31mb")
    assert KEY not in log.written
    assert "\x1b[31mb" not in log.written
    assert "1 of 2 failed" in log.written


def test_an_exception_that_was_formatted_before_is_redacted():
    log = Log(ConsoleFormatter())
    log.logger.handlers.insert(0, logging.StreamHandler(io.StringIO()))
    log.write_exception(f"{KEY} a\x1b[31mb")
    assert KEY not in log.written
    assert f"ValueError: {MASK} a\\x1b[31mb\n" in log.written


def test_other_records_are_unchanged(log):
    log.write_exception("harmless")
    assert "1 of 2 failed" in log.written
    assert "while sending harmless" in log.written
    assert "Traceback" in log.written or '"traceback"' in log.written


def test_structured_records_are_valid_json():
    log = Log(StructuredFormatter())
    log.write_exception(KEY)
    assert json.loads(log.written)["message"] == "1 of 2 failed"


def test_filter_is_installed_on_every_root_handler(monkeypatch):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    install(KEY)
    logging.getLogger("urllib3.connectionpool").error("GET /?key=%s", KEY)
    assert stream.getvalue() == f"GET /?key={MASK}\n"
    install("")
    assert len(handler.filters) == 1, "a process that creates many taps filters once"
    logging.getLogger("urllib3.connectionpool").error("GET /")
    assert stream.getvalue().endswith("\nGET /\n")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a\nERROR forged", "a\\nERROR forged"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\u202eright to left", "\\u202eright to left"),
        ("\ud800", "\\ud800"),
        ("\x00\r\t", "\\x00\\r\\t"),
        ("événement 日本 \U0001f600", "événement 日本 \U0001f600"),
        ("x" * 10**6, "x" * (MAX_MESSAGE_CHARACTERS - 19) + " ... (1000019 characters)"),
    ],
)
def test_messages_are_escaped_and_bounded(text, written):
    log = Log(logging.Formatter("%(message)s"))
    log.logger.warning("Undocumented field %s", text)
    assert log.written == f"Undocumented field {written}\n"
