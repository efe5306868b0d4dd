"""A real PostgreSQL for the session, and a database for each test."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from datasync_sandbox.testing import temporary_postgres

# Tests are imported by their path, so the directory of their helpers has to be named.
sys.path.insert(0, str(Path(__file__).parent))

from datasync_monitor.database import ReconnectingConnection
from datasync_monitor.progress import compute_progress
from datasync_monitor.snapshot import read_snapshot
from table_writer import TableWriter, connect, create_database, create_tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datasync_monitor.database import DatabaseSettings
    from datasync_monitor.progress import Progress
    from datasync_sandbox.testing import Cluster

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with temporary_postgres(tmp_path_factory.mktemp("monitoring")) as cluster:
        yield cluster


@pytest.fixture
def settings(cluster: Cluster) -> DatabaseSettings:
    """Name a database without tables."""
    return create_database(cluster, f"monitoring_{next(_numbers)}")


@pytest.fixture
def writer(settings: DatabaseSettings) -> Iterator[TableWriter]:
    """Create the project's tables, all empty."""
    with connect(settings) as connection:
        create_tables(connection)
        yield TableWriter(connection)


@pytest.fixture
def database(settings: DatabaseSettings) -> Iterator[ReconnectingConnection]:
    with ReconnectingConnection(settings) as database:
        yield database


@pytest.fixture
def read(database: ReconnectingConnection, writer: TableWriter) -> Callable[..., Progress]:
    """Return a function that reads the progress at the writer's time."""
    return lambda schema="public": compute_progress(
        database.run(lambda connection: read_snapshot(connection, schema)), writer.now
    )
