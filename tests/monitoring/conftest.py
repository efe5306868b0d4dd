"""A real PostgreSQL for the session, whose database each test finds empty."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest
from datasync_monitor.database import DatabaseSettings, ReconnectingConnection
from datasync_monitor.progress import compute_progress
from datasync_monitor.snapshot import read_snapshot
from datasync_sandbox.testing import temporary_postgres

from tests.monitoring.monitoring_helpers import TableWriter, create_tables, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datasync_monitor.progress import Progress
    from datasync_sandbox.testing import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with temporary_postgres(tmp_path_factory.mktemp("monitoring")) as cluster:
        yield cluster


@pytest.fixture
def settings(cluster: Cluster) -> DatabaseSettings:
    """Name the database, without tables."""
    cluster.sql('DROP SCHEMA IF EXISTS public, "odd name" CASCADE; CREATE SCHEMA public')
    return settings_of(cluster)


@pytest.fixture
def writer(cluster: Cluster, settings: DatabaseSettings) -> Iterator[TableWriter]:  # noqa: ARG001
    """Create the project's tables, all empty."""
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        create_tables(connection)
        yield TableWriter(connection)


@pytest.fixture
def database(settings: DatabaseSettings) -> Iterator[ReconnectingConnection]:
    with ReconnectingConnection(settings) as database:
        yield database


@pytest.fixture
def read(database: ReconnectingConnection, writer: TableWriter) -> Callable[[], Progress]:
    """Return a function that reads the progress at the writer's time."""

    def read() -> Progress:
        return compute_progress(replace(database.run(read_snapshot), now=writer.now))

    return read
