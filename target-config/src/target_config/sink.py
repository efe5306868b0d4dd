"""The stock sink, its rows written with COPY, and with an upsert where they exist.

Source of the COPY format: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format".
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import sqlalchemy
from psycopg import sql
from psycopg.errors import UniqueViolation
from singer_sdk.mapper import SameRecordTransform
from sqlalchemy.dialects.postgresql import JSONB
from target_postgres.sinks import PostgresSink
from typing_extensions import override

from target_config.connector import cursor_of
from target_config.errors import InvalidDataError, is_transient
from target_config.tables import tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy.types import TypeEngine

    from target_config.connector import CheckpointConnector
    from target_config.target import TargetPostgresCheckpoint

STAGING_TABLE = "load_staging"

ROWS_PER_CHUNK = 500
"""Rows encoded at a time: PostgreSQL inserts them while the next are encoded."""

# Settings with which the stock sink validates or changes records.
_CHANGING_SETTINGS = (
    "add_record_metadata",
    "interpret_content_encoding",
    "sanitize_null_text_characters",
    "validate_records",
)

_NULL = r"\N"
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


class CheckpointSink(PostgresSink):
    """Stock sink with its own transactions, and a shorter path for records that nothing changes.

    Two paths write the same rows. Records that nothing changes arrive as lines and are copied
    (`write_lines`); all others are decoded and transformed by the SDK, one by one, collected by it,
    and written by `process_batch`.

    While all rows are new, lines are copied straight into the table. If a key exists, PostgreSQL
    discards the whole COPY, and the rows go through a staging table, as do those that follow, until
    a page conflicts with no row: a COPY that fails leaves its rows as dead rows in the table.
    """

    connector: CheckpointConnector

    def __init__(
        self,
        target: TargetPostgresCheckpoint,
        stream_name: str,
        schema: dict[str, Any],
        key_properties: Sequence[str] | None,
        connector: CheckpointConnector,
    ) -> None:
        """Share the target's connector."""
        super().__init__(target, stream_name, schema, key_properties, connector)
        self._target = target
        self._what = f'a batch of "{stream_name}"'
        self._copies_directly = False
        # The stock sink logs its COPY statement for every batch.
        if self.logger.getEffectiveLevel() >= logging.INFO:
            self.logger.setLevel(logging.WARNING)

    @property
    @override
    def schema_name(self) -> str:
        return self._target.schema_name

    @override
    def setup(self) -> None:
        self.connector.retry(f'the table of "{self.stream_name}"', super().setup)

    @property
    def takes_lines(self) -> bool:
        """Whether records are written as they arrive: unchanged, and into a table of ours."""
        if any(self.config.get(setting) for setting in _CHANGING_SETTINGS):
            return False
        table = tables().get(self.table_name)
        if not self.config["use_copy"] or not table or table.key != tuple(self.key_properties):
            return False
        # A map may rename or duplicate the stream, so all maps of the source stream count.
        maps = self._target.mapper.stream_maps.get(self.stream_name, [])
        return [(type(map_), map_.stream_alias, map_.flattening_enabled) for map_ in maps] == [
            (SameRecordTransform, self.stream_name, False)
        ]

    def write_lines(self, lines: list[bytes]) -> None:
        """Commit RECORD lines; of several rows with one key the last is kept.

        Raises:
            InvalidDataError: If a record does not match the schema, or PostgreSQL rejects it.
        """
        if lines:
            self.connector.retry(self._what, lambda: self._write(lines))

    @override
    def process_batch(self, context: dict[str, Any]) -> None:
        def insert(connection: sqlalchemy.Connection) -> None:
            self.bulk_insert_records(
                table=sqlalchemy.Table(STAGING_TABLE, sqlalchemy.MetaData()),
                schema=self.schema,
                records=context["records"],
                primary_keys=self.key_properties,
                connection=connection,
            )

        self.connector.retry(self._what, lambda: self._upsert(insert))

    def _write(self, lines: list[bytes]) -> None:
        if self._copies_directly:
            try:
                with self.connector.transaction() as connection:
                    self._copy(connection, self._table, lines)
            except (UniqueViolation, psycopg.InternalError) as error:
                # Citus reports a conflict within a COPY as an internal error.
                if is_transient(error):
                    raise
                self._copies_directly = False
            else:
                return
        unique = self._encoder.last_of_each_key(lines)
        staging = sql.Identifier("pg_temp", STAGING_TABLE)
        written = self._upsert(lambda connection: self._copy(connection, staging, unique))
        self._copies_directly = written == len(unique)

    def _upsert(self, fill_staging: Callable[[sqlalchemy.Connection], None]) -> int:
        """Insert new rows, update changed ones, leave the others; returns the rows written.

        The staging table has one row per key. Its types are those of the table, whatever the JSON
        schema is. It lives for one transaction: a pooler may run the next one in another session.
        """
        names = _join("{}", self.schema["properties"])
        parts = {"table": self._table, "staging": sql.Identifier(STAGING_TABLE), "names": names}
        create_staging = sql.SQL(
            "CREATE TEMPORARY TABLE {staging} ON COMMIT DROP AS"
            " SELECT {names} FROM {table} WITH NO DATA"
        )
        merge = sql.SQL(
            "INSERT INTO {table} AS present ({names}) SELECT {names} FROM pg_temp.{staging} "
        )
        with self.connector.transaction() as connection:
            cursor = cursor_of(connection)
            cursor.execute(create_staging.format(**parts))
            fill_staging(connection)
            return cursor.execute(merge.format(**parts) + self._on_conflict()).rowcount

    def _on_conflict(self) -> sql.Composable:
        """Compose the end of the upsert: unchanged rows, and columns outside the stream, stay."""
        keys = self.key_properties
        others = [name for name in self.schema["properties"] if name not in keys]
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

    def _copy(
        self, connection: sqlalchemy.Connection, table: sql.Identifier, lines: list[bytes]
    ) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            table, _join("{}", self.schema["properties"])
        )
        with cursor_of(connection).copy(statement) as copy:
            for text in self._encoder.encode(lines):
                copy.write(text)

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier(self.schema_name, self.table_name)

    @cached_property
    def _encoder(self) -> CopyEncoder:
        columns = self.schema["properties"]
        types = {name: self.connector.to_sql_type(columns[name]) for name in columns}
        return CopyEncoder(self.stream_name, columns, types, self.key_properties)


def _join(template: str, names: Iterable[str]) -> sql.Composed:
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
        self._readers: list[Callable[[Sequence[Any]], Sequence[str | None]]] = []
        fields: dict[str, tuple[Any, Any]] = {}
        for name, schema in columns.items():
            fields[name] = (msgspec.Raw, msgspec.Raw(b"null"))
            if isinstance(sql_types[name], JSONB):
                self._readers.append(_json)
            elif _is_string(schema):
                fields[name] = (str | None, None)
                self._readers.append(_strings)
            else:
                self._readers.append(_scalars)
        self._decoder = _decoder(fields)
        self._key_decoder = _decoder({key: fields[key] for key in keys})

    def encode(self, lines: Sequence[bytes]) -> Iterator[bytes]:
        """Yield COPY text, `ROWS_PER_CHUNK` rows at a time.

        Raises:
            InvalidDataError: If a record does not match the schema.
        """
        for start in range(0, len(lines), ROWS_PER_CHUNK):
            text = b"\n".join(lines[start : start + ROWS_PER_CHUNK])
            # A character that COPY needs escaped is escaped in a JSON string too; between the
            # tokens of JSON only a tab or a carriage return can occur. Few chunks have any.
            needs_escape = b"\\" in text or b"\t" in text or b"\r" in text
            try:
                cells = zip(*self._decode(self._decoder, text), strict=True)
                columns = [read(values) for read, values in zip(self._readers, cells, strict=True)]
            except UnicodeDecodeError as error:
                raise self._invalid(error) from error
            if needs_escape:
                columns = [list(map(_escape, texts)) for texts in columns]
            columns = [[_NULL if text is None else text for text in texts] for texts in columns]
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
    names = {types} if isinstance(types, str) else set(types)
    return names - {"null"} == {"string"}


def _escape(text: str | None) -> str | None:
    return text and text.translate(_ESCAPES)


def _hashable(value: str | msgspec.Raw | None) -> str | bytes | None:
    return bytes(value) if isinstance(value, msgspec.Raw) else value


def _strings(values: Sequence[str | None]) -> Sequence[str | None]:
    return values


def _json(values: Sequence[msgspec.Raw]) -> Sequence[str | None]:
    texts = [str(value, "utf-8") for value in values]
    return [None if text == "null" else text for text in texts]


def _scalars(values: Sequence[msgspec.Raw]) -> Sequence[str | None]:
    return [_scalar(bytes(value)) for value in values]


def _scalar(json: bytes) -> str | None:
    if json == b"null":
        return None
    # A property of several types may contain a string.
    return msgspec.json.decode(json, type=str) if json[:1] == b'"' else json.decode()
