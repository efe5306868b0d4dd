"""The stock sink, with its own transactions and a shorter path for records that nothing changes."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy
from singer_sdk.mapper import SameRecordTransform
from target_postgres.sinks import PostgresSink
from typing_extensions import override

from target_config.connector import CheckpointConnector
from target_config.loader import STAGING_TABLE, TableLoader
from target_config.tables import tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from target_config.target import TargetPostgresCheckpoint

# Settings with which the stock sink validates or changes records.
_CHANGING_SETTINGS = (
    "add_record_metadata",
    "interpret_content_encoding",
    "sanitize_null_text_characters",
    "validate_records",
)


class CheckpointSink(PostgresSink):
    """Stock sink that writes through a `TableLoader`.

    Two paths write the same rows. Records that nothing changes arrive as lines and are copied
    (`loader.write_lines`); all others are decoded and transformed by the SDK, one by one, collected
    by it, and written by `process_batch`.
    """

    connector_class = CheckpointConnector
    connector: CheckpointConnector

    def __init__(
        self,
        target: TargetPostgresCheckpoint,
        stream_name: str,
        schema: dict[str, Any],
        key_properties: Sequence[str] | None,
        connector: CheckpointConnector | None = None,
    ) -> None:
        """Share the target's database."""
        super().__init__(target, stream_name, schema, key_properties, connector)
        self._target = target
        # The stock sink logs its COPY statement for every batch.
        if self.logger.getEffectiveLevel() >= logging.INFO:
            self.logger.setLevel(logging.WARNING)

    @property
    @override
    def schema_name(self) -> str:
        return self._target.schema_name

    @override
    def setup(self) -> None:
        what = f'the table of "{self.stream_name}"'
        self._target.database.retry(what, super().setup)

    @cached_property
    def loader(self) -> TableLoader:
        """Writes the rows of this stream."""
        return TableLoader(
            self._target.database,
            stream=self.stream_name,
            schema=self.schema_name,
            table=self.table_name,
            columns=self.schema["properties"],
            keys=self.key_properties,
        )

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

    @override
    def process_batch(self, context: dict[str, Any]) -> None:
        staging = sqlalchemy.Table(STAGING_TABLE, sqlalchemy.MetaData())
        self.loader.write_rows(
            lambda connection: self.bulk_insert_records(
                table=staging,
                schema=self.schema,
                records=context["records"],
                primary_keys=self.key_properties,
                connection=connection,
            )
        )
