"""A checkout with a fake Meltano and a fake sandbox, and a real PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from datasync_monitor.database import ReconnectingConnection
from datasync_sandbox.testing import temporary_postgres

from tests.ingestion.ingestion_helpers import Checkout, make_checkout
from tests.monitoring.monitoring_helpers import settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasync_sandbox.testing import Cluster


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    checkout = make_checkout(tmp_path / "check out")
    yield checkout
    checkout.kill_remaining()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with temporary_postgres(tmp_path_factory.mktemp("ingestion")) as cluster:
        yield cluster


@pytest.fixture
def empty(cluster: Cluster) -> Cluster:
    """The server, its database without a table."""
    cluster.start()
    cluster.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return cluster


@pytest.fixture
def ready(checkout: Checkout, empty: Cluster) -> Checkout:
    """A checkout whose sandbox reports the empty database."""
    checkout.use(empty)
    return checkout


@pytest.fixture
def connection(empty: Cluster) -> Iterator[ReconnectingConnection]:
    """A connection to it that does not sleep."""
    with ReconnectingConnection(
        settings_of(empty), read_only=False, sleep=lambda _seconds: None
    ) as connection:
        yield connection
