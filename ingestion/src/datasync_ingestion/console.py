"""The one place that prints."""

from __future__ import annotations

import sys


def say(message: object) -> None:
    """Tell the user, at once also when the output is a pipe."""
    print(message, flush=True)  # noqa: T201 - this is what a supervisor is for


def complain(message: object) -> None:
    """Tell the user what went wrong."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201
