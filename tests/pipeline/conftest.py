"""A PostgreSQL for this folder, and a database in it for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from datasync_sandbox.testing import temporary_postgres
from psycopg import sql

from tests.helpers import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasync_sandbox.testing import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One server for all tests."""
    with temporary_postgres(tmp_path_factory.mktemp("pg")) as running:
        yield running


@pytest.fixture
def database(cluster: Cluster, request: pytest.FixtureRequest) -> Database:
    """A new database for one test."""
    name = f"test_{abs(hash(request.node.nodeid)) % 10**12}"
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return Database(cluster, name)
