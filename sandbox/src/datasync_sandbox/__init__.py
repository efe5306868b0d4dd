"""A local DataSync API with its limits and failure modes, and an embedded PostgreSQL."""

from __future__ import annotations


class SandboxError(Exception):
    """The API or the database could not be started, stopped or queried; the message says why."""
