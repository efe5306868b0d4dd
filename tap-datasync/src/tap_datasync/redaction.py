"""Keeps secrets out of every log line, whoever writes it."""

from __future__ import annotations

import logging

from typing_extensions import override

MASK = "[redacted]"


class RedactingFilter(logging.Filter):
    """Replaces secrets in a record's message, arguments and exception text.

    It sits on the handlers, not on a logger: a logger's filter does not see the records
    of its children.
    """

    def __init__(self, *secrets: str) -> None:
        """Remember the secrets; empty ones are ignored."""
        super().__init__()
        self._secrets = tuple(s for s in secrets if s)

    def redact(self, text: str) -> str:
        """Return the text without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if (clean := self.redact(message)) != message:
            record.msg, record.args = clean, None
        if record.exc_info:
            text = record.exc_text or logging.Formatter().formatException(record.exc_info)
            if (clean := self.redact(text)) != text:
                # The structured formatter formats exc_info itself, so it has to go.
                record.exc_info, record.exc_text = None, clean
        return True


def install(*secrets: str) -> None:
    """Redact the secrets in everything that the root logger's handlers write."""
    redacting = RedactingFilter(*secrets)
    for handler in logging.getLogger().handlers:
        handler.addFilter(redacting)
