"""A real PostgreSQL for the session, its database empty for each test."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from datasync_sandbox.testing import temporary_postgres
from target_config.shutdown import SIGNALS
from target_config.target import TargetPostgresCheckpoint

from tests.helpers import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datasync_sandbox.testing import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with temporary_postgres(tmp_path_factory.mktemp("target")) as cluster:
        yield cluster


_EMPTY = """
DO $$
DECLARE
    name TEXT;
BEGIN
    FOR name IN SELECT nspname FROM pg_namespace
                 WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', name);
    END LOOP;
    CREATE SCHEMA public;
    EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
    EXECUTE format('ALTER ROLE %I RESET ALL', current_user);
END
$$
"""


@pytest.fixture
def database(cluster: Cluster) -> Database:
    """The cluster's database, emptied: creating one for each test takes longer than most tests."""
    cluster.start()
    database = Database(cluster, cluster.database)
    database.execute(_EMPTY)
    return database


@pytest.fixture
def make_target(database: Database) -> Iterator[Callable[..., TargetPostgresCheckpoint]]:
    """Create targets in this process; signal handlers are restored afterwards."""
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    targets: list[TargetPostgresCheckpoint] = []

    def make(**settings: Any) -> TargetPostgresCheckpoint:
        target = TargetPostgresCheckpoint(config={**database.config, **settings})
        targets.append(target)
        return target

    yield make
    signal.setitimer(signal.ITIMER_REAL, 0)
    for target in targets:
        target.target_connector.engine.dispose()
    for number, handler in handlers.items():
        signal.signal(number, handler)
