"""The real pipeline, against the sandbox's API over HTTP and an embedded PostgreSQL.

For the tests of this folder, and for the storm.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from datasync_sandbox.testing import Cluster, RunningApi

ROOT = Path(__file__).resolve().parents[2]
TAP = ROOT / ".venv/bin/tap-datasync"
TARGET = ROOT / ".venv/bin/target-postgres-checkpoint"
MELTANO = ROOT / ".venv/bin/meltano"
KEY = "a-key-that-nobody-may-see"
STATE_ID = "dev:tap-datasync-to-target-postgres"


@dataclass
class Database:
    """A database of one test."""

    cluster: Cluster
    name: str

    @property
    def url(self) -> str:
        return self.cluster.url.rsplit("/", 1)[0] + f"/{self.name}"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Run a query."""
        with psycopg.connect(self.url) as connection:
            return connection.execute(query.encode()).fetchall()

    def target_config(self) -> dict[str, Any]:
        """Return where the loader finds it; its other settings have defaults that are right."""
        return {
            "host": self.cluster.host,
            "port": self.cluster.port,
            "user": self.cluster.user,
            "password": self.cluster.password,
            "database": self.name,
        }


def pipeline_env(api: RunningApi, database: Database, directory: Path) -> dict[str, str]:
    """Return the environment in which Meltano loads from the API into the database."""
    return {
        **os.environ,
        "API_BASE_URL": api.url,
        "API_KEY": api.key,
        "DB_HOST": database.cluster.host,
        "DB_PORT": str(database.cluster.port),
        "DB_USER": database.cluster.user,
        "DB_PASSWORD": database.cluster.password,
        "DB_NAME": database.name,
        # A database of Meltano's own: the state of whoever works here stays as it is.
        "MELTANO_DATABASE_URI": f"sqlite:///{directory / 'meltano.db'}",
        "NO_COLOR": "1",
    }


def pipe(
    api: RunningApi, database: Database, directory: Path, **settings: Any
) -> tuple[int, int, str]:
    """Run ``tap | target`` once, from the state of the last time.

    Returns:
        Both exit codes, and what both logged.
    """
    tap_config, target_config = directory / "tap.json", directory / "target.json"
    tap_config.write_text(json.dumps({"api_url": api.url, "api_key": api.key, **settings}))
    target_config.write_text(json.dumps(database.target_config()))
    state = directory / "state.json"
    arguments = ["--state", str(state)] if state.exists() else []
    with (directory / "log.txt").open("w+b") as log:
        tap = subprocess.Popen(
            [TAP, "--config", tap_config, *arguments], stdout=subprocess.PIPE, stderr=log
        )
        done = subprocess.run(
            [TARGET, "--config", target_config],
            check=False,
            stdin=tap.stdout,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        assert tap.stdout is not None
        tap.stdout.close()
        code = tap.wait()
    if lines := done.stdout.decode().splitlines():
        state.write_text(lines[-1])
    return code, done.returncode, (directory / "log.txt").read_text()
