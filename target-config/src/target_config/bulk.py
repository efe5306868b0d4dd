"""The bulk lane: a file of JSON lines goes in by COPY."""

from __future__ import annotations

import gzip
import hashlib
import select
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from psycopg import sql
from psycopg.errors import UniqueViolation

from target_config.copytext import CopyText
from target_config.failures import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import psycopg
    from psycopg.pq.abc import PGconn
    from singer_sdk.helpers._batch import BaseBatchFileEncoding

    from target_config.connector import CheckpointConnector

MOST_WAITING_BYTES = 4 * 1024 * 1024
"""More than a page, so that decoding it never waits for PostgreSQL to take it in."""


class BulkLoader:
    """Loads files of one stream into one table.

    A row whose key is there already is left alone, so sending a file again does nothing. Of two
    rows with the same key in one file the first is kept.

    That takes a staging table and an `INSERT ... ON CONFLICT`, half of it for nothing while all
    rows are new, as in a first load. So a file that comes after one without a conflict is copied
    straight into the table. If a key is there after all, PostgreSQL takes nothing of the file, and
    it goes the long way, as do those after it until one is without a conflict again: a straight
    COPY that fails leaves a page of dead rows behind, which must not happen page after page.
    """

    def __init__(
        self,
        connector: CheckpointConnector,
        *,
        schema: str,
        table: str,
        properties: dict[str, dict[str, object]],
        keys: Sequence[str],
    ) -> None:
        """Write the statements once.

        Args:
            connector: Where connections come from.
            schema: Schema of the table.
            table: The table; it exists.
            properties: Its columns in the order of the COPY, with their JSON schema.
            keys: Its primary key; without one every row is inserted.
        """
        self._connector = connector
        types = {name: connector.to_sql_type(definition) for name, definition in properties.items()}
        self._copytext = CopyText(properties, types)
        target = sql.Identifier(schema, table)
        columns = sql.SQL(", ").join(map(sql.Identifier, properties))
        # One temporary table for each set of columns; it lives as long as the connection and is
        # empty again after each commit. Its types are those of the table, whatever the schema says.
        digest = hashlib.sha256("\0".join([schema, table, *properties]).encode()).hexdigest()
        staging = sql.Identifier("pg_temp", f"bulk_{digest[:16]}")
        self._make = sql.SQL(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {} ON COMMIT DELETE ROWS "
            "AS SELECT {} FROM {} WITH NO DATA"
        ).format(staging, columns, target)
        copy = sql.SQL("COPY {} ({}) FROM STDIN")
        self._copy = copy.format(staging, columns)
        self._copy_straight = copy.format(target, columns)
        conflict = (
            sql.SQL("ON CONFLICT ({}) DO NOTHING").format(
                sql.SQL(", ").join(map(sql.Identifier, keys))
            )
            if keys
            else sql.SQL("")
        )
        self._insert = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} {}").format(
            target, columns, columns, staging, conflict
        )
        self._all_new = False

    def load(self, path: Path, encoding: BaseBatchFileEncoding) -> int:
        """Commit one file; returns how many rows it held.

        Raises:
            InputError: If the file cannot be read or does not fit the schema.
        """
        if self._all_new:
            try:
                return self._load_straight(path, encoding)
            except UniqueViolation:
                self._all_new = False
        with self._transaction() as cursor:
            cursor.execute(self._make)
            rows = self._send(cursor, self._copy, path, encoding)
            cursor.execute(self._insert)
            self._all_new = 0 < rows == cursor.rowcount
        return rows

    def _load_straight(self, path: Path, encoding: BaseBatchFileEncoding) -> int:
        with self._transaction() as cursor:
            return self._send(cursor, self._copy_straight, path, encoding)

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        with self._connector.engine.connect() as connection, connection.begin():
            yield connection.connection.cursor()  # type: ignore[misc]

    def _send(
        self,
        cursor: psycopg.Cursor[Any],
        statement: sql.Composed,
        path: Path,
        encoding: BaseBatchFileEncoding,
    ) -> int:
        total = waiting = 0
        with _open(path, encoding) as file, cursor.copy(statement) as copy:
            for rows, text in self._copytext.chunks(file):
                total += rows
                copy.write(text)
                waiting += len(text)
                if waiting > MOST_WAITING_BYTES:
                    waiting = 0
                    _send_all(cursor.connection.pgconn)
        return total


def _send_all(connection: PGconn) -> None:
    """Wait until all that was written is on its way.

    libpq keeps what the server has not taken yet, without a limit: a large file would end up in
    memory as a whole, since it is decoded faster than it is inserted.
    """
    while connection.flush():
        select.select([], [connection.socket], [])


def _open(path: Path, encoding: BaseBatchFileEncoding) -> IO[bytes]:
    if encoding.format != "jsonl" or encoding.compression not in {None, "none", "gzip"}:
        message = (
            f"Batch files of format {encoding.format}, compression {encoding.compression} "
            "are not supported."
        )
        raise InputError(message)
    try:
        opener = gzip.open if encoding.compression == "gzip" else open
        return cast("IO[bytes]", opener(path, "rb"))
    except OSError as error:
        message = f"Batch file {path} cannot be read: {error.strerror}."
        raise InputError(message) from error
