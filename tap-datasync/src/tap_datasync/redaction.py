"""Makes every log record safe to print: no secrets, no control characters, bounded length.

Names and texts of the API appear in messages. A line break or a terminal sequence in one
of them could forge log lines, so whatever is not printable is escaped.
"""

from __future__ import annotations

import logging

from typing_extensions import override

MASK = "[redacted]"

MAX_MESSAGE_CHARACTERS = 10_000


class RedactingFilter(logging.Filter):
    """Cleans a record's message, arguments and exception text.

    It is attached to handlers, not to a logger: a logger's filter does not see the records
    of its children.
    """

    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        clean = self._clean(message)
        if len(clean) > MAX_MESSAGE_CHARACTERS:
            clean = f"{clean[:MAX_MESSAGE_CHARACTERS]} ... ({len(clean)} characters)"
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info:
            text = record.exc_text or logging.Formatter().formatException(record.exc_info)
            if (clean := self._clean(text, keep="\n")) != text:
                # The structured formatter formats exc_info itself, so it has to go.
                record.exc_info, record.exc_text = None, clean
        return True

    def _clean(self, text: str, *, keep: str = "") -> str:
        """Mask the secret, and escape everything that is not printable."""
        if self._secret:
            text = text.replace(self._secret, MASK)
        if text.isprintable():
            return text
        return "".join(
            c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
        )


def install(secret: str) -> None:
    """Clean everything that the root logger's handlers write, for the tap created last."""
    redacting = RedactingFilter(secret)
    for handler in logging.getLogger().handlers:
        for earlier in [one for one in handler.filters if isinstance(one, RedactingFilter)]:
            handler.removeFilter(earlier)
        handler.addFilter(redacting)
