"""One transaction, whole: not interrupted halfway, sent again when the connection was lost."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

import backoff
import psycopg
import sqlalchemy.exc

from target_config.failures import (
    DatabaseError,
    SettingsError,
    in_one_line,
    is_passing,
    is_refused_connection,
    is_structural,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from backoff.types import Details

    from target_config.connector import CheckpointConnector
    from target_config.failures import LoaderError
    from target_config.shutdown import Shutdown

T = TypeVar("T")

RETRIES = 10
PAUSE_SECONDS = 2.0

logger = logging.getLogger("target-postgres.database")


class Database:
    """Runs transactions on the connector that all sinks share."""

    def __init__(
        self,
        connector: CheckpointConnector,
        shutdown: Shutdown,
        *,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Connect nothing yet.

        Args:
            connector: Where the engine comes from.
            shutdown: Holds signals off while a transaction runs.
            sleep: Waits between two attempts, in seconds.
        """
        self.connector = connector
        self._shutdown = shutdown
        self._sleep = sleep

    def run(self, what: str, transaction: Callable[[], T]) -> T:
        """Run a transaction, again and from its start when the connection fails.

        It is tried up to `RETRIES` times more, `PAUSE_SECONDS` apart: long enough for a database
        that starts or restarts. What it does must be safe to do twice, since a connection may break
        after the server has committed.

        Args:
            what: Names the transaction in a sentence, such as `a batch of "events"`.
            transaction: Opens a connection, does its work and commits.

        Raises:
            DatabaseError: If PostgreSQL refuses the rows, or cannot be reached for too long.
            SettingsError: If it refuses us, or the tables are not what we need.
        """

        def pause(details: Details) -> None:
            logger.warning(
                "PostgreSQL is away, trying again in %g s (%d of %d): %s.",
                PAUSE_SECONDS,
                details["tries"],
                RETRIES,
                in_one_line(details["exception"]),
            )
            self.connector.forget()
            # backoff itself can only call time.sleep: it is told to wait 0 s and the pause is made
            # here, where a test can stand in for it and a signal may end it.
            with self._shutdown.interruptible():
                self._sleep(PAUSE_SECONDS)

        attempt = backoff.on_exception(
            backoff.constant,
            (psycopg.Error, sqlalchemy.exc.DBAPIError),
            interval=0,
            max_tries=1 + RETRIES,
            jitter=None,
            giveup=lambda error: not is_passing(error),
            on_backoff=pause,
            logger=None,
        )(transaction)
        try:
            with self._shutdown.deferred():
                return attempt()
        except (psycopg.Error, sqlalchemy.exc.DBAPIError) as error:
            raise self._failure(what, error) from error

    def _failure(self, what: str, error: BaseException) -> LoaderError:
        url = self.connector.engine.url
        said = in_one_line(error)
        if is_refused_connection(error):
            message = (
                f"PostgreSQL at {url.host}:{url.port} refused the connection: {said}. "
                "Check the settings user, password and database."
            )
            return SettingsError(message)
        if is_passing(error):
            message = (
                f"PostgreSQL at {url.host}:{url.port} was away for more than "
                f"{RETRIES * PAUSE_SECONDS:g} s while {what} was to be written: {said}."
            )
            return DatabaseError(message)
        message = f"PostgreSQL refused {what}: {said}."
        return SettingsError(message) if is_structural(error) else DatabaseError(message)
