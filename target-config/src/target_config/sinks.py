"""The stock sink, its transactions made whole, and a lane for files."""

from __future__ import annotations

import logging
import sys
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from singer_sdk.mapper import SameRecordTransform
from target_postgres.sinks import PostgresSink

from target_config import batchfiles
from target_config.bulk import BulkLoader
from target_config.connector import CheckpointConnector
from target_config.failures import SettingsError
from target_config.settings import schema_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from singer_sdk.helpers._batch import BaseBatchFileEncoding

    from target_config.target import TargetPostgresCheckpoint

if sys.version_info >= (3, 12):
    from typing import override
else:
    from typing_extensions import override


class CheckpointSink(PostgresSink):
    """Stock sink whose transactions go through `Database.run`."""

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
        # The stock sink logs its COPY statement for every batch; whoever asked for DEBUG gets it.
        if self.logger.getEffectiveLevel() >= logging.INFO:
            self.logger.setLevel(logging.WARNING)

    @property
    @override
    def schema_name(self) -> str:
        # Where the SQL has made the tables.
        return schema_of(self.config)

    @override
    def setup(self) -> None:
        self._target.prepare()
        self._target.database.run(f'the table of "{self.stream_name}"', super().setup)

    @override
    def process_batch(self, context: dict[str, Any]) -> None:
        stock = super().process_batch
        self._target.database.run(f'a batch of "{self.stream_name}"', lambda: stock(context))

    @cached_property
    def _bulk(self) -> BulkLoader:
        return BulkLoader(
            self.connector,
            schema=self.schema_name,
            table=self.table_name,
            properties=self.schema["properties"],
            keys=self.key_properties,
        )

    @property
    def _is_changed_on_its_way(self) -> bool:
        """Whether other rows are asked for than come: by metadata, stream maps or flattening."""
        if self.include_sdc_metadata_properties:
            return True
        # A map may give the stream, or a copy of it, another name: all maps of its source count.
        return any(
            type(stream_map) is not SameRecordTransform or stream_map.flattening_enabled
            for stream_maps in self._target.mapper.stream_maps.values()
            if self.stream_name in {stream_map.stream_alias for stream_map in stream_maps}
            for stream_map in stream_maps
        )

    @override
    def process_batch_files(self, encoding: BaseBatchFileEncoding, files: Sequence[str]) -> None:
        """Load the files of a BATCH message, each in a transaction, and remove each after it.

        Raises:
            SettingsError: If settings ask for other rows than the files hold.
        """
        if self._is_changed_on_its_way:
            message = (
                "Batch files go in as they are: add_record_metadata, stream maps and flattening "
                "need the default lane."
            )
            raise SettingsError(message)
        for path in map(batchfiles.local_path, files):
            self._target.clean_up_beside(path)
            # A signal between the commit and the removal would leave the file behind.
            with self._target.shutdown.deferred():
                rows = self._target.database.run(
                    f'the batch file {path.name} of "{self.stream_name}"',
                    partial(self._bulk.load, path, encoding),
                )
                batchfiles.remove(path)
            self.tally_record_written(rows)
            self.record_counter_metric.increment(rows)
