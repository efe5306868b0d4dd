"""Exit codes and the exceptions that carry them.

```
IngestionError     1   trying again later may help
├── ConfigError    2   a setting, an option or the database has to be changed by the user
└── BusyError     75   another load is running
```

Exit code 3 has no exception here: only the tap ends with it, see `runner.classify`. A signal
is `signals.Interrupted`.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_RETRY = 1
EXIT_CONFIG = 2
EXIT_PERMANENT = 3
EXIT_BUSY = 75
"""`EX_TEMPFAIL` of sysexits.h."""


class IngestionError(Exception):
    """The run ends. The message is for the user."""

    exit_code: ClassVar[int] = EXIT_RETRY


class ConfigError(IngestionError):
    """Something that the user set is wrong, and has to be changed."""

    exit_code = EXIT_CONFIG


class BusyError(IngestionError):
    """Another load is running in this checkout or into this database."""

    exit_code = EXIT_BUSY
