"""Every private hook of the SDK that we hold on to, and why; nothing else touches one.

The SDK is pinned, and tests/target/test_sdk_hooks.py fails when one of these is changed upstream.
"""

from __future__ import annotations

import abc
import sys
from typing import TYPE_CHECKING, Any

# What the command line hands to `Target.invoke`, a public method with a private type.
from singer_sdk.plugin_base import _ConfigInput as ConfigInput
from target_postgres.connector import PostgresConnector
from target_postgres.target import TargetPostgres

if TYPE_CHECKING:
    from types import FrameType

    import sqlalchemy

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override


__all__ = ["ConfigInput", "HookedConnector", "HookedTarget"]


class HookedConnector(PostgresConnector):
    """The stock connector, its engine under a public name."""

    @property
    def engine(self) -> sqlalchemy.Engine:
        """The engine that all sinks and the checkpoint share; made at its first use."""
        # Our own transactions have to run on the sinks' engine, and there is no public way to it.
        return self._engine


class HookedTarget(TargetPostgres, abc.ABC):
    """The stock target, its private turns exchanged for three methods with a name."""

    @abc.abstractmethod
    def on_state(self, state: dict[str, Any]) -> None:
        """Take a STATE from the tap."""

    @abc.abstractmethod
    def on_signal(self, signum: int) -> None:
        """Take SIGTERM or SIGINT."""

    @override
    def _process_state_message(self, message_dict: dict[str, Any]) -> None:
        # The SDK only remembers the STATE here and hands it back every five minutes or at the end
        # (meltano/sdk issue 2692). There is no public place that sees a STATE arrive. We leave the
        # remembering out, so drain_all has none to print: checkpoint.hand_on prints, nothing else.
        self._assert_line_requires(message_dict, requires={"value"})
        self.on_state(message_dict["value"])

    @override
    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        # The SDK writes out all that it holds, prints a STATE and exits with 0: from within a
        # signal handler, so possibly in the middle of the very same transaction.
        self.on_signal(signum)

    def listen_to_signals(self) -> None:
        """Take the signals back: the stock connector's SSH tunnel sets handlers of its own."""
        self._setup_signal_handlers()
