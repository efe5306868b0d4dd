"""The one error that the sandbox raises for its users."""

from __future__ import annotations


class SandboxError(Exception):
    """The API or the database could not be started, stopped or queried; the message says why."""
