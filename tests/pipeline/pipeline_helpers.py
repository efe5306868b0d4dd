"""The real pipeline, against the sandbox's API over HTTP and an embedded PostgreSQL.

For the tests of this folder, and for the chaos test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasync_sandbox.testing import ApiServer

    from tests.helpers import Database

ROOT = Path(__file__).resolve().parents[2]
TAP = ROOT / ".venv/bin/tap-datasync"
TARGET = ROOT / ".venv/bin/target-postgres-checkpoint"
KEY = "a-key-that-must-not-appear"
STATE_ID = "dev:tap-datasync-to-target-postgres"
PIPELINE = ("tap-datasync", "target-postgres")


@dataclass
class Project:
    """A copy of the checkout's Meltano project with its own state."""

    root: Path
    env: dict[str, str]

    @property
    def meltano_path(self) -> Path:
        return self.root / ".venv/bin/meltano"

    def meltano(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Meltano to its end."""
        return subprocess.run(
            [self.meltano_path, *arguments],
            check=False,
            cwd=self.root,
            env=self.env,
            capture_output=True,
            text=True,
        )

    def bookmark(self) -> dict[str, Any]:
        """Return the state of `events`; empty where there is none."""
        done = self.meltano("state", "get", STATE_ID)
        state = json.loads(done.stdout or "{}").get("singer_state", {})
        bookmark = state.get("bookmarks", {}).get("events", {})
        assert isinstance(bookmark, dict)
        return bookmark


def make_project(api: ApiServer, database: Database, directory: Path) -> Project:
    """Copy what makes the checkout a Meltano project; the programs are the installed ones."""
    root = directory / "project"
    root.mkdir()
    shutil.copy(ROOT / "meltano.yml", root)
    shutil.copytree(ROOT / "plugins", root / "plugins", symlinks=True)
    (root / ".venv").symlink_to(ROOT / ".venv")
    return Project(root, {**pipeline_env(api, database), "MELTANO_PROJECT_ROOT": str(root)})


def pipeline_env(api: ApiServer, database: Database) -> dict[str, str]:
    """Return the environment in which a pipeline loads from the API into the database."""
    config = database.config
    return {
        **os.environ,
        "API_BASE_URL": api.url,
        "API_KEY": api.key,
        "DB_HOST": config["host"],
        "DB_PORT": str(config["port"]),
        "DB_USER": config["user"],
        "DB_PASSWORD": config["password"],
        "DB_NAME": config["database"],
        "NO_COLOR": "1",
    }


def pipe(
    api: ApiServer,
    target_config: dict[str, Any],
    directory: Path,
    target: Path = TARGET,
    **settings: Any,
) -> tuple[int, int, str]:
    """Run ``tap | target`` once, from the state of the last time.

    Args:
        api: The API.
        target_config: Settings of the target.
        directory: For settings, log and ``state.json``.
        target: Its program.
        **settings: Further settings of the tap.

    Returns:
        Both exit codes, and what both logged.
    """
    paths = [directory / name for name in ("tap.json", "target.json", "state.json", "log.txt")]
    tap_path, target_path, state, log_path = paths
    tap_path.write_text(json.dumps({"api_url": api.url, "api_key": api.key, **settings}))
    target_path.write_text(json.dumps(target_config))
    arguments = ["--state", str(state)] if state.exists() else []
    with log_path.open("wb") as log:
        tap = subprocess.Popen(
            [TAP, "--config", tap_path, *arguments], stdout=subprocess.PIPE, stderr=log
        )
        done = subprocess.run(
            [target, "--config", target_path],
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
    return code, done.returncode, log_path.read_text()


def feed_ids(api: ApiServer) -> Iterator[str]:
    """Yield the ids of all events of the feed."""
    return (row.id for row in api.model.feed.rows() if row.id is not None)
