"""The connection to PostgreSQL: its sessions, transactions with retries, and the load lock."""

from __future__ import annotations

import itertools
import logging
import time
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import psycopg
import sqlalchemy
import sqlalchemy.exc
from sqlalchemy.dialects.postgresql import JSONB
from typing_extensions import override

from target_config.errors import LockedError, driver_error, is_transient, summarize, translate
from target_config.sdk_overrides import PatchedConnector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from singer_sdk.sql.connector import JSONSchemaToSQL

    from target_config.shutdown import Shutdown

T = TypeVar("T")

RETRIES = 10
RETRY_SECONDS = 2.0
APPLICATION_NAME = "target-postgres-checkpoint"

LOCK_CLASS = 1_684_107_116
"""First half of the advisory lock's key; the second is `hashtext` of the schema's name."""

# SET LOCAL, so that it works behind a pooler in transaction mode. A commit must be durable when it
# returns: a crash must not take back rows that the checkpoint after them covers.
_SESSION = (
    "SET LOCAL synchronous_commit TO on; SET LOCAL TimeZone TO 'UTC'; SET LOCAL DateStyle TO ISO"
)

# The lock's transaction is idle for as long as the load runs; transaction_timeout is PostgreSQL 17.
# The keepalives let the server detect within 15 s that this machine is unreachable.
_LOCK_SESSION = """
    SELECT set_config(name, value, true)
      FROM pg_settings
      JOIN (VALUES ('idle_in_transaction_session_timeout', '0'), ('transaction_timeout', '0'),
                   ('tcp_keepalives_idle', '5'), ('tcp_keepalives_interval', '5'),
                   ('tcp_keepalives_count', '2')) AS wanted (name, value) USING (name)
"""

_LOCK_HOLDER = """
    SELECT a.pid, a.application_name, host(a.client_addr), a.xact_start
      FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
     WHERE (l.locktype, l.granted, l.objsubid) = ('advisory', true, 2)
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (l.classid, l.objid) = (%s::oid, hashtext(%s)::oid)
"""

logger = logging.getLogger(f"{APPLICATION_NAME}.database")

# Decimal as a JSON number, digit by digit: JSONB keeps what the tap sent.
_encoder = msgspec.json.Encoder(decimal_format="number", enc_hook=str)


class CheckpointConnector(PatchedConnector):
    """Stock connector, shared by all sinks and the checkpoint.

    Its sessions do not depend on the role or the environment. Its transactions are not interrupted
    by a signal, and are retried if the connection fails.
    """

    def __init__(
        self,
        config: dict[str, Any],
        shutdown: Shutdown,
        *,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Read the settings; the first transaction connects.

        Args:
            config: Settings of the target.
            shutdown: Defers signals while a transaction runs.
            sleep: Waits between two attempts, in seconds.
        """
        super().__init__(config)
        self._shutdown = shutdown
        self._sleep = sleep

    @override
    def get_sqlalchemy_url(self, config: Mapping[str, Any]) -> str:
        host = config.get("host")
        if config.get("sqlalchemy_url") or not str(host).startswith(("/", "@")):
            return super().get_sqlalchemy_url(config)
        # In a URL, a socket directory can only be given in the query.
        url = sqlalchemy.make_url(super().get_sqlalchemy_url({**config, "host": None}))
        return url.update_query_dict({"host": str(host)}).render_as_string(hide_password=False)

    @override
    def get_sqlalchemy_query(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "application_name": APPLICATION_NAME,
            "client_encoding": "utf8",
            # Without it an attempt to reach a host that does not respond takes two minutes.
            "connect_timeout": "10",
            **super().get_sqlalchemy_query(config),
        }

    @override
    def create_engine(self) -> sqlalchemy.Engine:
        engine = super().create_engine()

        @sqlalchemy.event.listens_for(engine, "do_connect")
        def disable_prepared_statements(*arguments: Any) -> None:
            # A pooler in transaction mode may run the next transaction in another session, which
            # does not have the prepared statements of this one.
            arguments[-1]["prepare_threshold"] = None

        @sqlalchemy.event.listens_for(engine, "begin")
        def set_up_session(connection: sqlalchemy.Connection) -> None:
            cursor_of(connection).execute(_SESSION)

        return engine

    @cached_property
    @override
    def jsonschema_to_sql(self) -> JSONSchemaToSQL:
        # None is SQL NULL, as in every other column; the stock target writes a JSON null. Arrays
        # are JSONB whatever their items are, as in the tables.
        to_sql = super().jsonschema_to_sql
        to_sql.register_type_handler("object", lambda _: JSONB(none_as_null=True))
        to_sql.register_type_handler("array", lambda _: JSONB(none_as_null=True))
        return to_sql

    @override
    def serialize_json(self, obj: object) -> str:
        return _encoder.encode(obj).decode()

    @contextmanager
    def transaction(self) -> Iterator[sqlalchemy.Connection]:
        """Open one transaction and commit it at the end."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    def run_transaction(self, what: str, work: Callable[[psycopg.Cursor[Any]], T]) -> T:
        """Run one transaction, with the retries of `retry`."""

        def run() -> T:
            with self.transaction() as connection:
                return work(cursor_of(connection))

        return self.retry(what, run)

    def retry(self, what: str, work: Callable[[], T]) -> T:
        """Do work that is safe to repeat, again from its start if the connection fails.

        It is repeated up to `RETRIES` times, `RETRY_SECONDS` apart: long enough for a database that
        starts or restarts.

        Args:
            what: Names the work in messages, such as `a batch of "events"`.
            work: Connects, runs transactions and commits. It may run twice, because a connection
                may break after the server has committed.

        Raises:
            DatabaseUnavailableError: If PostgreSQL cannot be reached for too long, or cannot write.
            InvalidDataError: If PostgreSQL rejects the rows.
            SettingsError: If PostgreSQL rejects the connection, or a table or privilege is missing.
        """
        with self._shutdown.deferred():
            for attempt in itertools.count(1):
                try:
                    return work()
                except (psycopg.Error, sqlalchemy.exc.DBAPIError) as error:
                    cause = driver_error(error)
                    if attempt > RETRIES or not is_transient(cause):
                        waited = RETRIES * RETRY_SECONDS
                        raise translate(cause, what, self.engine.url, waited) from error
                    logger.warning(
                        "PostgreSQL is not available, trying again in %g s (%d of %d): %s.",
                        RETRY_SECONDS,
                        attempt,
                        RETRIES,
                        summarize(cause),
                    )
                # The server may have restarted: no pooled connection is used again.
                self.engine.dispose()
                with self._shutdown.interruptible():
                    self._sleep(RETRY_SECONDS)
        raise AssertionError  # unreachable: the loop returns or raises


def cursor_of(connection: sqlalchemy.Connection) -> psycopg.Cursor[Any]:
    """Return a cursor of psycopg within the connection's transaction."""
    return cast("psycopg.Cursor[Any]", connection.connection.cursor())


class LoadLock:
    """An advisory lock on a schema: one load at a time, whatever machine it runs on.

    It belongs to a transaction that stays open on a connection of its own, because a pooler in
    transaction mode keeps no session. PostgreSQL releases it when the process ends in any way.
    """

    def __init__(self, connector: CheckpointConnector, schema: str) -> None:
        """Store the parts; entering connects."""
        self._connector = connector
        self._schema = schema
        self._connection: sqlalchemy.Connection | None = None
        self._was_held = False

    def __enter__(self) -> None:
        """Acquire the lock.

        Raises:
            LockedError: If another session holds it.
        """
        self.hold()

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self._release()

    def hold(self) -> None:
        """Acquire the lock again if its connection is lost.

        Raises:
            LockedError: If another session holds it.
        """
        self._connector.retry("the load lock", self._hold)

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Now, and not when the server notices that the connection has ended.
            with suppress(sqlalchemy.exc.DBAPIError):
                connection.rollback()
            connection.invalidate()
            connection.close()

    def _hold(self) -> None:
        if self._connection is not None:
            with suppress(sqlalchemy.exc.DBAPIError):
                self._connection.exec_driver_sql("SELECT 1")
                return
            self._release()
        try:
            self._connection = self._connector.engine.connect()
            self._acquire(self._connection)
        except BaseException:
            self._release()
            raise

    def _acquire(self, connection: sqlalchemy.Connection) -> None:
        key = (LOCK_CLASS, self._schema)
        connection.exec_driver_sql(_LOCK_SESSION)
        lock = "SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))"
        if connection.exec_driver_sql(lock, key).scalar():
            self._was_held = True
            return
        message = f'Another load into schema "{self._schema}" of this database is running'
        if holder := connection.exec_driver_sql(_LOCK_HOLDER, key).one_or_none():
            # All but the pid is NULL for a session of another role.
            pid, name, address, since = holder
            details = [name or "a session of another role", f"server process {pid}"]
            details += [f"from {address}"] if address else []
            details += [f"since {since:%Y-%m-%d %H:%M:%S} UTC"] if since else []
            message += f": {', '.join(details)}"
        message += ". Wait for it to finish, or stop it."
        if self._was_held:
            # The server may not have detected yet that our previous connection is lost.
            raise psycopg.errors.LockNotAvailable(message)
        raise LockedError(message)
