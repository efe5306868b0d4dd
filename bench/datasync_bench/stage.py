"""The stand-ins that everything runs against: one API for each feed, one PostgreSQL."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from datasync_sandbox.testing import (
    ApiOptions,
    ApiProcess,
    BackgroundApi,
    Cluster,
    bin_directory,
    fetch_stats,
)
from psycopg import sql

from datasync_bench.paths import WORK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from datasync_bench.processes import Usage

DATABASE = "bench"
UNLIMITED = {"limit": 1_000_000, "window": 1.0}
"""More requests than anybody sends: it never paces."""

_OURS = ("API_", "DB_", "BATCH_SIZE", "MELTANO_", "TAP_", "TARGET_", "PG", "PYTHON")


@dataclass(frozen=True)
class Api:
    """A sandbox API that runs.

    Attributes:
        process: The process, its address and its key.
        events: Events of its feed.
    """

    process: ApiProcess
    events: int

    def stats(self) -> dict[str, Any]:
        """What it was asked so far."""
        stats = fetch_stats(self.process.url)
        if stats is None:
            message = f"The sandbox API at {self.process.url} does not answer."
            raise RuntimeError(message)
        return stats


@contextmanager
def running_api(events: int, **options: Any) -> Iterator[Api]:
    """Serve a feed in a process of its own; without a limit unless `options` say one."""
    name = "-".join([str(events), *(f"{key}{value}" for key, value in sorted(options.items()))])
    background = BackgroundApi(WORK / f"api-{name}")
    background.stop()
    process = background.start(ApiOptions(port=0, events=events, **{**UNLIMITED, **options}))
    try:
        yield Api(process, events)
    finally:
        background.stop()


@contextmanager
def running_database() -> Iterator[Cluster]:
    """Run the embedded PostgreSQL as the sandbox sets it up, `fsync` on."""
    cluster = Cluster(WORK / "database" / "pg")
    started = cluster.start(port=0)
    try:
        yield cluster
    finally:
        if started:
            cluster.stop()


def postgres_version() -> str:
    """The version of the embedded PostgreSQL, such as `18.0`."""
    program = bin_directory() / "postgres"
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    return said.stdout.split()[-1]


@dataclass(frozen=True)
class Loaded:
    """What a run has left in its database.

    Attributes:
        rows: Rows of `events`.
        distinct: Distinct ids.
        complete: Rows with a timestamp and both objects.
        size: Bytes of the table with its indexes.
    """

    rows: int
    distinct: int
    complete: int
    size: int


@dataclass(frozen=True)
class Stage:
    """An API and a database."""

    api: Api
    cluster: Cluster

    def environment(self) -> dict[str, str]:
        """The environment of a program: where the API and the database are."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_OURS) or name == "PATH"
        }
        return {
            **kept,
            "API_BASE_URL": self.api.process.url,
            "API_KEY": self.api.process.key,
            "BATCH_SIZE": "5000",
            "DB_HOST": self.cluster.host,
            "DB_PORT": str(self.cluster.port),
            "DB_USER": self.cluster.user,
            "DB_PASSWORD": self.cluster.password,
            "DB_NAME": DATABASE,
        }

    @property
    def database_pid(self) -> int:
        """PostgreSQL's process."""
        pid = self.cluster.pid()
        if pid is None:
            message = "PostgreSQL has stopped."
            raise RuntimeError(message)
        return pid

    def busy_seconds(self, usage: Usage) -> float:
        """Seconds of a run from its first request to its end; all of it without a request.

        Before the first request nothing but starting goes on, and how long that takes varies
        more than what is measured.
        """
        requests = [at for at in self.api.stats()["arrivals"] if at >= usage.began]
        return usage.seconds - (requests[0] - usage.began if requests else 0.0)

    def clear(self) -> None:
        """Make the database anew; dropping it makes PostgreSQL write everything out first.

        Not `WITH (FORCE)`: that may not end an autovacuum, which a plain DROP waits for.
        """
        with self._connect(self.cluster.database) as connection:
            connection.autocommit = True
            name = sql.Identifier(DATABASE)
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))

    def loaded(self) -> Loaded:
        """Count what was loaded."""
        with self._connect(DATABASE) as connection:
            row = connection.execute(
                "SELECT count(*), count(DISTINCT id),"
                " count(*) FILTER (WHERE timestamp IS NOT NULL AND properties IS NOT NULL"
                " AND session IS NOT NULL),"
                " pg_total_relation_size('events') FROM events"
            ).fetchone()
        if row is None:
            message = "PostgreSQL counted nothing."
            raise RuntimeError(message)
        return Loaded(*row)

    def commits(self) -> Sequence[tuple[float, int]]:
        """For each page in order: when its transaction began, in seconds, and its rows."""
        with self._connect(DATABASE) as connection:
            rows = connection.execute(
                "SELECT extract(epoch FROM ingested_at)::float8, count(*) FROM events"
                " GROUP BY ingested_at ORDER BY ingested_at"
            ).fetchall()
        return [(float(moment), int(count)) for moment, count in rows]

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=self.cluster.host,
            port=self.cluster.port,
            user=self.cluster.user,
            password=self.cluster.password,
            dbname=database,
        )
