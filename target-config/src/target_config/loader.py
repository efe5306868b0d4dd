"""Writes the rows of one stream: RECORD lines to COPY, and an upsert for rows that exist.

Source of the COPY format: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format".
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from psycopg import sql
from psycopg.errors import UniqueViolation
from sqlalchemy.dialects.postgresql import JSONB

from target_config.connector import cursor_of
from target_config.errors import InvalidDataError, is_transient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import sqlalchemy
    from sqlalchemy.types import TypeEngine

    from target_config.connector import Database

STAGING_TABLE = "load_staging"

ROWS_PER_CHUNK = 500
"""Rows encoded at a time: PostgreSQL inserts them while the next are encoded."""

_NULL = r"\N"
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


class TableLoader:
    """Writes rows of one stream into one table.

    While all rows are new, they are copied straight into the table. If a key exists, PostgreSQL
    discards the whole COPY, and the rows go through a staging table, as do those that follow, until
    a page conflicts with no row: a COPY that fails leaves its rows as dead rows in the table.
    """

    def __init__(  # noqa: PLR0913 - the parts of a table
        self,
        database: Database,
        *,
        stream: str,
        schema: str,
        table: str,
        columns: Mapping[str, Mapping[str, Any]],
        keys: Sequence[str],
    ) -> None:
        """Compose the statements.

        Args:
            database: Runs the transactions.
            stream: Name of the stream, for messages.
            schema: Schema of the table.
            table: The table; it exists.
            columns: Its columns in the order of the COPY, with their JSON schema.
            keys: Its primary key; without one, `write_rows` inserts every row.
        """
        self._database = database
        self._what = f'a batch of "{stream}"'
        to_sql_type = database.connector.to_sql_type
        types = {name: to_sql_type(dict(definition)) for name, definition in columns.items()}
        self._encoder = CopyEncoder(stream, columns, types, keys)
        self._copies_directly = False
        target, staging = sql.Identifier(schema, table), sql.Identifier("pg_temp", STAGING_TABLE)
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        copy = sql.SQL("COPY {} ({}) FROM STDIN")
        self._copy_into_table = copy.format(target, names)
        self._copy_into_staging = copy.format(staging, names)
        # Its types are those of the table, whatever the JSON schema is. It lives for one
        # transaction: a pooler may run the next one in another session.
        self._create_staging = sql.SQL(
            "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA"
        ).format(sql.Identifier(STAGING_TABLE), names, target)
        self._merge = sql.SQL("INSERT INTO {} AS present ({}) SELECT {} FROM {} {}").format(
            target, names, names, staging, _on_conflict(keys, [c for c in columns if c not in keys])
        )

    def write_lines(self, lines: list[bytes]) -> None:
        """Commit RECORD lines; of several rows with one key the last is kept.

        Raises:
            InvalidDataError: If a record does not match the schema, or PostgreSQL rejects it.
        """
        if lines:
            self._database.retry(self._what, lambda: self._write(lines))

    def _write(self, lines: list[bytes]) -> None:
        if self._copies_directly:
            try:
                with self._database.transaction() as connection:
                    self._copy(connection, self._copy_into_table, lines)
            except (UniqueViolation, psycopg.InternalError) as error:
                # Citus reports a conflict within a COPY as an internal error.
                if is_transient(error):
                    raise
                self._copies_directly = False
            else:
                return
        unique = self._encoder.last_of_each_key(lines)
        written = self._upsert(lambda c: self._copy(c, self._copy_into_staging, unique))
        self._copies_directly = written == len(unique)

    def write_rows(self, fill_staging: Callable[[sqlalchemy.Connection], object]) -> None:
        """Commit rows that the caller writes into `STAGING_TABLE`, one row per key."""
        self._database.retry(self._what, lambda: self._upsert(fill_staging))

    def _upsert(self, fill_staging: Callable[[sqlalchemy.Connection], object]) -> int:
        """Insert new rows, update changed ones, leave the others; returns the rows written."""
        with self._database.transaction() as connection:
            cursor = cursor_of(connection)
            cursor.execute(self._create_staging)
            fill_staging(connection)
            return cursor.execute(self._merge).rowcount

    def _copy(
        self, connection: sqlalchemy.Connection, statement: sql.Composed, lines: list[bytes]
    ) -> None:
        with cursor_of(connection).copy(statement) as copy:
            for text in self._encoder.encode(lines):
                copy.write(text)


def _on_conflict(keys: Sequence[str], others: Sequence[str]) -> sql.Composable:
    """Compose the upsert, which skips unchanged rows and keeps columns outside the stream."""
    if not keys:
        return sql.SQL("")
    conflict = sql.SQL("ON CONFLICT ({}) ").format(_join("{}", keys))
    if not others:
        return conflict + sql.SQL("DO NOTHING")
    return conflict + sql.SQL("DO UPDATE SET {} WHERE ({}) IS DISTINCT FROM ({})").format(
        _join("{0} = excluded.{0}", others),
        _join("present.{}", others),
        _join("excluded.{}", others),
    )


def _join(template: str, names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.SQL(template).format(sql.Identifier(name)) for name in names)


class CopyEncoder:
    """Encodes RECORD lines as COPY text, column by column.

    A line is decoded into a struct of just the columns: strings become str, and everything else
    stays the JSON text that it is, which PostgreSQL reads as JSONB, number or boolean. So numbers
    keep every digit. A missing property and null are NULL; unknown properties are left out.
    """

    def __init__(
        self,
        stream: str,
        columns: Mapping[str, Mapping[str, Any]],
        sql_types: Mapping[str, TypeEngine[Any]],
        keys: Sequence[str],
    ) -> None:
        """Create the decoders.

        Args:
            stream: Name of the stream, for messages.
            columns: Columns in order, with their JSON schema.
            sql_types: Type of each column in PostgreSQL.
            keys: Columns of the primary key.
        """
        self._stream = stream
        self._writers: list[Callable[[Sequence[Any], bool], Sequence[str]]] = []
        fields: dict[str, tuple[Any, Any]] = {}
        for name, schema in columns.items():
            if isinstance(sql_types[name], JSONB):
                fields[name] = (msgspec.Raw, msgspec.Raw(b"null"))
                self._writers.append(_json)
            elif _is_string(schema):
                fields[name] = (str | None, None)
                self._writers.append(_strings)
            else:
                fields[name] = (msgspec.Raw, msgspec.Raw(b"null"))
                self._writers.append(_scalars)
        self._decoder = _decoder(fields)
        self._key_decoder = _decoder({key: fields[key] for key in keys})

    def encode(self, lines: Sequence[bytes]) -> Iterator[bytes]:
        """Yield COPY text, `ROWS_PER_CHUNK` rows at a time.

        Raises:
            InvalidDataError: If a record does not match the schema.
        """
        for start in range(0, len(lines), ROWS_PER_CHUNK):
            text = b"\n".join(islice(lines, start, start + ROWS_PER_CHUNK))
            # A character that COPY needs escaped is escaped in a JSON string too; between the
            # tokens of JSON only a tab or a carriage return can occur. Few chunks have any.
            needs_escape = b"\\" in text or b"\t" in text or b"\r" in text
            try:
                cells = zip(*self._decode(self._decoder, text), strict=True)
                columns = [
                    write(values, needs_escape)
                    for write, values in zip(self._writers, cells, strict=True)
                ]
            except UnicodeDecodeError as error:
                raise self._invalid(error) from error
            yield ("\n".join(map("\t".join, zip(*columns, strict=True))) + "\n").encode()

    def last_of_each_key(self, lines: Sequence[bytes]) -> list[bytes]:
        """Return the lines without those whose key occurs again later."""
        keys = self._decode(self._key_decoder, b"\n".join(lines))
        hashable = [tuple(map(_hashable, key)) for key in keys]
        return list(dict(zip(hashable, lines, strict=True)).values())

    def _decode(
        self, decoder: msgspec.json.Decoder[Any], lines: bytes
    ) -> Iterator[tuple[Any, ...]]:
        try:
            messages = decoder.decode_lines(lines)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._invalid(error) from error
        return map(msgspec.structs.astuple, [message.record for message in messages])

    def _invalid(self, error: Exception) -> InvalidDataError:
        return InvalidDataError(f'A record of "{self._stream}" does not match its schema: {error}.')


def _decoder(fields: Mapping[str, tuple[Any, Any]]) -> msgspec.json.Decoder[Any]:
    # Property names need not be Python names: the fields are numbered.
    numbered = {f"f{number}": name for number, name in enumerate(fields)}
    row = msgspec.defstruct(
        "Row",
        [(field, *fields[name]) for field, name in numbered.items()],
        rename=numbered,
        gc=False,
    )
    return msgspec.json.Decoder(msgspec.defstruct("Message", [("record", row)], gc=False))


def _is_string(schema: Mapping[str, Any]) -> bool:
    types = schema.get("type", ())
    return {types} == {"string"} if isinstance(types, str) else set(types) - {"null"} == {"string"}


def _hashable(value: str | msgspec.Raw | None) -> str | bytes | None:
    return bytes(value) if isinstance(value, msgspec.Raw) else value


def _strings(values: Sequence[str | None], needs_escape: bool) -> Sequence[str]:  # noqa: FBT001
    if needs_escape:
        return [_NULL if value is None else value.translate(_ESCAPES) for value in values]
    return [_NULL if value is None else value for value in values]


def _json(values: Sequence[msgspec.Raw], needs_escape: bool) -> Sequence[str]:  # noqa: FBT001
    texts = [str(value, "utf-8") for value in values]
    if needs_escape:
        texts = [text.translate(_ESCAPES) for text in texts]
    return [_NULL if text == "null" else text for text in texts]


def _scalars(values: Sequence[msgspec.Raw], needs_escape: bool) -> Sequence[str]:  # noqa: FBT001
    return _strings([_scalar(bytes(value)) for value in values], needs_escape)


def _scalar(json: bytes) -> str | None:
    if json == b"null":
        return None
    # A property of several types may contain a string.
    return msgspec.json.decode(json, type=str) if json[:1] == b'"' else json.decode()
