"""A checkout whose Meltano and sandbox are stand-ins that do as they are told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from datasync_ingestion.database import Door
from datasync_sandbox.testing import temporary_postgres

# Tests are imported by their path, as modules of no package: what they share has to be found.
sys.path.insert(0, str(Path(__file__).parent))

from ingestion_helpers import Checkout, make_checkout, place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasync_sandbox.testing import Cluster


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    checkout = make_checkout(tmp_path / "check out")
    yield checkout
    checkout.end_leftovers()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with temporary_postgres(tmp_path_factory.mktemp("ingestion")) as cluster:
        yield cluster


@pytest.fixture
def empty(cluster: Cluster) -> Cluster:
    """Give the server, its database without a table."""
    cluster.start()
    cluster.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return cluster


@pytest.fixture
def door(empty: Cluster) -> Iterator[Door]:
    """Give a door to it that never waits."""
    with Door(place(empty), lambda _seconds: None) as door:
        yield door
