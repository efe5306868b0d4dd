"""The stock connector with cheaper habits."""

from __future__ import annotations

import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import CreateTable

from target_config.sdk_hooks import HookedConnector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg
    from singer_sdk.sql.connector import FullyQualifiedName, JSONSchemaToSQL

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override

# Decimal as a JSON number, digit by digit: JSONB keeps what the tap sent.
_encoder = msgspec.json.Encoder(decimal_format="number", enc_hook=str)


def _set_up_session(connection: psycopg.Connection[Any], _record: object) -> None:
    """Give a new connection what all our transactions rely on.

    A commit that has returned must be durable, whatever the server's or the role's default. Were
    rows to commit asynchronously, a server that crashes between them and their checkpoint would
    lose them, and the checkpoint, tried again after the restart, would claim them.

    A join is that of one page with a whole table, by its key. PostgreSQL holds an index to be dear
    (`random_page_cost` 4), so while a table is below half a million rows it would rather read all
    of it, twice a page.
    """
    connection.execute("SET synchronous_commit TO on")
    connection.execute("SET enable_hashjoin TO off")
    connection.execute("SET enable_mergejoin TO off")
    connection.execute("SET client_encoding TO 'UTF8'")
    connection.commit()


class CheckpointConnector(HookedConnector):
    """Stock connector whose sessions are set up for us, and that looks at a table only once."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Start with no table known."""
        super().__init__(config)
        self._known_tables: dict[tuple[str, bytes], sqlalchemy.Table] = {}
        self._staging_tables: dict[str, sqlalchemy.Table] = {}

    @override
    def get_sqlalchemy_query(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "application_name": "target-postgres-checkpoint",
            # Without it a host that answers nothing holds every attempt for two minutes.
            "connect_timeout": "10",
            **super().get_sqlalchemy_query(config),
        }

    @override
    def create_engine(self) -> sqlalchemy.Engine:
        engine = super().create_engine()
        sqlalchemy.event.listen(engine, "connect", _set_up_session)
        return engine

    @cached_property
    @override
    def jsonschema_to_sql(self) -> JSONSchemaToSQL:
        # None is SQL NULL, as in every other column; the stock target writes a JSON null. Arrays
        # are JSONB whatever their items: that is what the tables have.
        to_sql = super().jsonschema_to_sql
        to_sql.register_type_handler("object", lambda _: JSONB(none_as_null=True))
        to_sql.register_type_handler("array", lambda _: JSONB(none_as_null=True))
        return to_sql

    @override
    def serialize_json(self, obj: object) -> str:
        return _encoder.encode(obj).decode()

    @override
    def prepare_table(  # type: ignore[override]
        self,
        full_table_name: str | FullyQualifiedName,
        schema: dict[str, Any],
        primary_keys: Sequence[str],
        connection: sqlalchemy.Connection,
        partition_keys: list[str] | None = None,
        as_temp_table: bool = False,
    ) -> sqlalchemy.Table:
        """Make the table fit the schema; a table that was found to fit is not asked about again.

        The stock sink comes here for every batch, and reflects the table anew each time.
        """
        key = (str(full_table_name), msgspec.json.encode(schema, order="deterministic"))
        table = self._known_tables.get(key)
        if table is None:
            table = super().prepare_table(
                full_table_name, schema, primary_keys, connection, partition_keys, as_temp_table
            )
            # The stock sink copies the table's structure for its staging table, comments included:
            # a statement for each column of each batch.
            table.comment = None
            for column in table.columns:
                column.comment = None
            self._known_tables[key] = table
        return table

    @override
    def copy_table_structure(
        self,
        full_table_name: str | FullyQualifiedName,
        from_table: sqlalchemy.Table,
        connection: sqlalchemy.Connection,
        as_temp_table: bool = False,
    ) -> sqlalchemy.Table:
        """Make the staging table of a batch, once a connection instead of once a batch.

        It empties itself at each commit. Making and dropping it costs more than a small batch, and
        leaves dead rows in the catalogs, three tables a page.
        """
        if not as_temp_table:
            return super().copy_table_structure(
                full_table_name, from_table, connection, as_temp_table
            )
        name = str(full_table_name)
        staging = self._staging_tables.get(name)
        if staging is None:
            # No key in it: the sink has made the keys unique, and its index would cost the COPY.
            columns = (
                sqlalchemy.Column(column.name, column.type, server_default=column.server_default)
                for column in from_table.columns
            )
            staging = self._staging_tables[name] = sqlalchemy.Table(
                name,
                sqlalchemy.MetaData(),
                *columns,
                prefixes=["TEMPORARY"],
                postgresql_on_commit="DELETE ROWS",
            )
        connection.execute(CreateTable(staging, if_not_exists=True))
        return staging

    @override
    def drop_table(self, table: sqlalchemy.Table, connection: sqlalchemy.Connection) -> None:
        if table is not self._staging_tables.get(table.name):
            super().drop_table(table, connection)

    def forget(self) -> None:
        """Drop all connections and all that is known of tables: the server may have restarted."""
        self._known_tables.clear()
        self._staging_tables.clear()
        self.engine.dispose()
