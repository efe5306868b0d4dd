"""Exit codes, and the errors that carry them."""

from __future__ import annotations

from typing import ClassVar

OK = 0
FAILED = 1
USAGE = 2
HOPELESS = 3
BUSY = 75
"""`EX_TEMPFAIL` of sysexits.h: nothing is wrong, it is only not the moment."""


class IngestionError(Exception):
    """The run ends here. The message is one sentence for the user."""

    exit_code: ClassVar[int] = FAILED


class UsageError(IngestionError):
    """A setting or an option is wrong: the user has to change it."""

    exit_code = USAGE


class BusyError(IngestionError):
    """Another run is under way in this checkout."""

    exit_code = BUSY
