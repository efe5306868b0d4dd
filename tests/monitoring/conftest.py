"""A real PostgreSQL for the session, and for each test a database of its own."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from datasync_sandbox.testing import temporary_postgres

# Tests are imported by their path, as modules of no package: what they share has to be found.
sys.path.insert(0, str(Path(__file__).parent))

from scribe import Scribe, apply_tables, database, writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasync_monitor.database import Settings
    from datasync_sandbox.testing import Cluster

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with temporary_postgres(tmp_path_factory.mktemp("monitoring")) as cluster:
        yield cluster


@pytest.fixture
def settings(cluster: Cluster) -> Settings:
    """Give the way to a database without any table."""
    return database(cluster, f"monitoring_{next(_numbers)}")


@pytest.fixture
def scribe(settings: Settings) -> Iterator[Scribe]:
    """Give a scribe over the project's own tables, all of them empty."""
    with writer(settings) as connection:
        apply_tables(connection)
        yield Scribe(connection)
