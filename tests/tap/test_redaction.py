"""The key is in no log line, whoever writes it and however it is formatted."""

from __future__ import annotations

import io
import json
import logging

import pytest
from singer_sdk.logging import ConsoleFormatter, StructuredFormatter
from tap_datasync.redaction import MASK, RedactingFilter, install
from tap_helpers import KEY


class Log:
    """A logger with handlers of its own and what they wrote."""

    def __init__(self, *formatters: logging.Formatter) -> None:
        self.logger = logging.Logger("tests.redaction")  # noqa: LOG001 - it has no parents
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
    """Nor in what arguments are turned into."""
    log.logger.error("the key is " + KEY)  # noqa: G003 - on purpose
    log.logger.error("the key is %s", KEY)
    log.logger.error("of %(a)s", {"a": {"api_key": KEY}})
    assert KEY not in log.written
    assert all(stream.getvalue().count(MASK) >= 3 for stream in log.streams)


def test_the_key_is_not_in_exceptions(log):
    """Nor in their causes; the message stays."""
    try:
        try:
            fail(f"bad header {KEY!r}")
        except ValueError as error:
            raise RuntimeError(f"cannot send {KEY}") from error  # noqa: EM102, TRY003
    except RuntimeError:
        log.logger.exception("it failed")
    assert KEY not in log.written
    assert "it failed" in log.written


def test_the_key_is_not_in_an_exception_that_somebody_formatted_before():
    """A handler without the filter leaves its text in the record."""
    log = Log(ConsoleFormatter())
    careless = logging.StreamHandler(io.StringIO())
    log.logger.handlers.insert(0, careless)
    try:
        fail(KEY)
    except ValueError:
        log.logger.exception("it failed")
    assert KEY not in log.written
    assert MASK in log.written


def test_everything_else_is_left_alone(log):
    """A harmless record keeps its arguments and its exception."""
    try:
        fail("harmless")
    except ValueError:
        log.logger.exception("%d of %d", 1, 2)
    assert "1 of 2" in log.written
    assert "harmless" in log.written
    assert "Traceback" in log.written or '"traceback"' in log.written


def test_structured_lines_stay_json():
    """Also where something was taken out."""
    log = Log(StructuredFormatter())
    try:
        fail(KEY)
    except ValueError:
        log.logger.exception("with %s", KEY)
    assert json.loads(log.written)["message"] == f"with {MASK}"


def test_the_filter_is_put_on_every_handler_of_the_root_logger(monkeypatch):
    """So that loggers of libraries are covered too."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    install(KEY)
    logging.getLogger("urllib3.connectionpool").error("GET /?key=%s", KEY)
    assert stream.getvalue() == f"GET /?key={MASK}\n"
