"""Every private hook of the SDK that the target uses, with the reason; no other module uses one.

The SDK is pinned, and tests/target/test_sdk_overrides.py fails when one of these changes upstream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# The command line passes it to `Target.invoke`, a public method with a private type.
from singer_sdk.plugin_base import _ConfigInput as ConfigInput
from target_postgres.connector import PostgresConnector
from target_postgres.target import TargetPostgres
from typing_extensions import override

if TYPE_CHECKING:
    import sqlalchemy


__all__ = ["ConfigInput", "PatchedConnector", "PatchedTarget"]


class PatchedConnector(PostgresConnector):
    """The stock connector, its engine under a public name."""

    @property
    def engine(self) -> sqlalchemy.Engine:
        """The engine that all sinks and the checkpoint share; created at its first use."""
        # Our own transactions run on the engine of the sinks, and there is no public access to it.
        return self._engine


class PatchedTarget(TargetPostgres):
    """The stock target, with its message handlers under public names."""

    # The SDK reads, dispatches and handles messages in one final method (`listen`), which decodes
    # each RECORD and keeps each STATE for up to five minutes (meltano/sdk issue 2692). We read the
    # messages ourselves and pass on those that the SDK's own handlers are right for.

    def process_schema(self, message: dict[str, Any]) -> None:
        """Create or replace the sinks of a stream."""
        self._process_schema_message(message)

    def process_record(self, message: dict[str, Any]) -> None:
        """Pass a record through the stream maps to its sinks."""
        self._process_record_message(message)

    def process_activate_version(self, message: dict[str, Any]) -> None:
        """Let the sinks of a stream remove rows of earlier versions."""
        self._process_activate_version_message(message)

    @override
    def _setup_signal_handlers(self) -> None:
        # Nothing: `Shutdown` handles signals. The SDK's handler, which its constructor would set,
        # writes all that is in memory and exits with 0: within a signal handler, so possibly in the
        # middle of the same transaction.
        return
