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

import psycopg
from dotenv import dotenv_values

from datasync_bench import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasync_bench.processes import Command, Usage

BENCH = Path(__file__).resolve().parents[1]
ROOT = BENCH.parent
WORK = BENCH / ".work"
BIN = ROOT / ".venv" / "bin"

UNLIMITED = {"limit": 1_000_000, "window": 1}
"""A rate limit that no candidate reaches."""

_SETTING_PREFIXES = ("API_", "DB_", "BATCH_SIZE", "MELTANO_", "TAP_", "TARGET_", "PG", "PYTHON")


@dataclass(frozen=True, slots=True)
class Environment:
    """One API and one database.

    Attributes:
        variables: The whole environment of a candidate's processes, with the names of ``.env`` and
            ``DATABASE_URL``.
        events: Events in the feed of the API.
    """

    variables: dict[str, str]
    events: int

    def run(self, commands: dict[str, Command], **variables: str) -> Usage:
        """Run the commands of a candidate in an empty directory, with additional variables."""
        directory = WORK / "run"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        return processes.run(commands, env={**self.variables, **variables}, directory=directory)

    def stats(self) -> dict[str, Any]:
        """Return the request log and the counters of the API."""
        address = self.variables["API_BASE_URL"].removesuffix("/api/v1") + "/__sandbox__/stats"
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
        url = self.variables["DATABASE_URL"]
        with psycopg.connect(url, dbname="postgres", autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS bench")
            connection.execute("CREATE DATABASE bench")

    def complete_rows(self) -> int:
        """Count the rows with a distinct id, a timestamp and both objects."""
        return self._count(
            "SELECT count(DISTINCT id) FILTER (WHERE timestamp IS NOT NULL"
            " AND properties IS NOT NULL AND session IS NOT NULL) FROM events"
        )

    def written_rows(self) -> int:
        """Count the rows inserted or updated since the table was created."""
        return self._count(
            "SELECT n_tup_ins + n_tup_upd FROM pg_stat_user_tables WHERE relid = 'events'::regclass"
        )

    def _count(self, query: str) -> int:
        with psycopg.connect(self.variables["DATABASE_URL"]) as connection:
            row = connection.execute(query.encode()).fetchone()
        assert row is not None  # noqa: S101 - an aggregate returns one row
        return int(row[0])


@contextmanager
def environment(events: int, **options: object) -> Iterator[Environment]:
    """Serve a feed beside a durable database, without a rate limit unless ``options`` set one.

    Args:
        events: Size of the feed.
        **options: Options of ``datasync-sandbox up``.
    """
    directory = WORK / "sandbox"
    options = {"port": 0, "db_port": 0, "events": events, **UNLIMITED, **options}
    arguments = (f"--{name.replace('_', '-')}={value}" for name, value in options.items())
    _sandbox("up", directory, *arguments)
    try:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_SETTING_PREFIXES) and "proxy" not in name.lower()
        }
        found = {name: value or "" for name, value in dotenv_values(directory / "env").items()}
        variables = {**inherited, **found, "BATCH_SIZE": "5000", "DB_NAME": "bench"}
        variables["DATABASE_URL"] = (
            "postgresql://{DB_USER}:{DB_PASSWORD}@{DB_HOST}:{DB_PORT}/{DB_NAME}"
        ).format_map(variables)
        yield Environment(variables, events)
    finally:
        _sandbox("down", directory)


def _sandbox(verb: str, directory: Path, *options: str) -> None:
    command = [str(BIN / "datasync-sandbox"), verb, f"--dir={directory}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"{' '.join(command)} failed: {done.stderr.strip()}"
        raise RuntimeError(message)
