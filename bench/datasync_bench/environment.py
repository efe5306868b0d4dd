"""The sandbox API and the embedded PostgreSQL that every candidate runs against."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from dotenv import dotenv_values
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasync_bench.processes import Usage

BENCH = Path(__file__).resolve().parents[1]
ROOT = BENCH.parent
WORK = BENCH / ".work"
BIN = ROOT / ".venv" / "bin"
DATABASE = "bench"

UNLIMITED = {"limit": 1_000_000, "window": 1}
"""A rate limit that no candidate reaches."""

_SETTING_PREFIXES = ("API_", "DB_", "BATCH_SIZE", "MELTANO_", "TAP_", "TARGET_", "PG", "PYTHON")


def _sandbox(*arguments: object) -> None:
    command = [str(BIN / "datasync-sandbox"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"{' '.join(command)} failed: {done.stderr.strip()}"
        raise RuntimeError(message)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Contents of the table ``events`` after a load.

    Attributes:
        rows: Number of rows.
        complete: Rows with a distinct id, a timestamp and both objects.
        table_bytes: Size of the table with its index.
        writes: Rows inserted or updated since the table was created, from PostgreSQL's statistics.
    """

    rows: int
    complete: int
    table_bytes: int
    writes: int


@dataclass(frozen=True, slots=True)
class Environment:
    """One API and one database.

    Attributes:
        settings: ``API_BASE_URL``, ``API_KEY`` and ``DB_*`` for a candidate.
        events: Events in the feed of the API.
    """

    settings: dict[str, str]
    events: int

    def variables(self) -> dict[str, str]:
        """Return the whole environment of a candidate's processes."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_SETTING_PREFIXES) and "proxy" not in name.lower()
        }
        return {**inherited, **self.settings, "BATCH_SIZE": "5000", "DB_NAME": DATABASE}

    def stats(self) -> dict[str, Any]:
        """Return the request log and the counters of the API."""
        url = urlsplit(self.settings["API_BASE_URL"])
        address = urlunsplit(url._replace(path="/__sandbox__/stats"))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address, timeout=30) as response:
            stats: dict[str, Any] = json.load(response)
        return stats

    def active_seconds(self, usage: Usage) -> float:
        """Return seconds from the first request of a run to its end; all of it without one."""
        arrivals = [at for at in self.stats()["arrivals"] if at >= usage.started_at]
        return usage.seconds - (arrivals[0] - usage.started_at if arrivals else 0.0)

    def clear(self) -> None:
        """Replace the database by an empty one; PostgreSQL writes out the old one first."""
        with self._connect(self.settings["DB_NAME"]) as connection:
            connection.autocommit = True
            name = sql.Identifier(DATABASE)
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(name))
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))

    def loaded(self) -> Loaded:
        """Count what a candidate has loaded."""
        with self._connect(DATABASE) as connection:
            row = connection.execute(
                "SELECT count(*), count(DISTINCT id) FILTER (WHERE timestamp IS NOT NULL"
                " AND properties IS NOT NULL AND session IS NOT NULL),"
                " pg_total_relation_size('events'),"
                " (SELECT n_tup_ins + n_tup_upd FROM pg_stat_user_tables"
                " WHERE relid = 'events'::regclass)"
                " FROM events"
            ).fetchone()
        assert row is not None  # noqa: S101 - an aggregate returns one row
        return Loaded(*row)

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=self.settings["DB_HOST"],
            port=int(self.settings["DB_PORT"]),
            user=self.settings["DB_USER"],
            password=self.settings["DB_PASSWORD"],
            dbname=database,
        )


@contextmanager
def database() -> Iterator[dict[str, str]]:
    """Run the embedded PostgreSQL, durable as the sandbox sets it up.

    Yields:
        Its ``DB_*`` settings.
    """
    directory = WORK / "database"
    _sandbox("up", "--db-only", "--db-port", 0, "--dir", directory)
    try:
        yield _settings(directory)
    finally:
        _sandbox("down", "--db-only", "--dir", directory)


@contextmanager
def environment(settings: dict[str, str], events: int, **options: object) -> Iterator[Environment]:
    """Serve a feed beside a database, without a rate limit unless ``options`` set one.

    Args:
        settings: From :func:`database`.
        events: Size of the feed.
        **options: Options of ``datasync-sandbox api``.
    """
    directory = WORK / "api"
    arguments: list[object] = []
    for name, value in {"port": 0, "events": events, **UNLIMITED, **options}.items():
        arguments += [f"--{name.replace('_', '-')}", value]
    _sandbox("up", "--api-only", "--dir", directory, *arguments)
    try:
        yield Environment({**settings, **_settings(directory)}, events)
    finally:
        _sandbox("down", "--api-only", "--dir", directory)


def _settings(directory: Path) -> dict[str, str]:
    return {name: value or "" for name, value in dotenv_values(directory / "env").items()}


def scratch(name: str) -> Path:
    """Return an empty directory for one run."""
    directory = WORK / "runs" / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
