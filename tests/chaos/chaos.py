"""Kills tap, target, Meltano and PostgreSQL at random while a load goes on.

The pipeline is the real one, started by the supervisor as ``run-ingestion.sh`` does it,
against a sandbox with short windows. In the end the table is compared with the feed, row
by row, by a hash over all columns.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
from datasync_sandbox.testing import (
    ApiOptions,
    RunningApi,
    SandboxError,
    running_api,
    temporary_postgres,
)

from tests.pipeline.pipeline_helpers import ROOT, Database, pipeline_env

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from datasync_sandbox.testing import Cluster

VICTIMS = ("tap-datasync", "target-postgres-checkpoint", "meltano", "postgres")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
SHOWN = 20
"""Differences of a kind that a report names; the others are counted."""


@dataclass
class Report:
    """What a storm came to.

    Attributes:
        kills: Kills by victim and signal.
        events: Events of the feed.
        requests: Requests spent.
        pages: Requests that a load without a kill needs.
        written: Rows sent to the loader, as far as their page was committed.
        seconds: How long it took.
        differences: What is wrong with the table; empty when it equals the feed.
        exit_codes: How the supervisor's runs ended.
    """

    events: int
    pages: int
    kills: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    written: int = 0
    seconds: float = 0.0
    differences: list[str] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        """Tell it to people."""
        by_victim = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        lines = [
            f"kills          {self.kills.total()} ({by_victim})",
            f"events         {self.events:,}",
            f"requests       {self.requests:,} ({self.pages:,} without a kill)",
            f"rows sent      {self.written:,} ({self.written - self.events:,} of them again)",
            f"duration       {self.seconds:.0f} s",
            f"supervisor     started {len(self.exit_codes)} times, ended with {self.exit_codes}",
            *(self.differences or ["the table equals the feed, row by row, in all columns"]),
        ]
        return "\n".join(lines)


def row_hash(values: Iterable[Any]) -> str:
    """Hash one row: text as it is, JSON with sorted keys, an instant in seconds since 1970."""
    text = json.dumps(list(values), sort_keys=True, default=lambda t: t.timestamp().hex())
    return hashlib.sha256(text.encode()).hexdigest()


class Storm:
    """One load under fire."""

    def __init__(self, api: RunningApi, database: Cluster, directory: Path, seed: int) -> None:
        """Aim at a pipeline between an API and a database.

        Args:
            api: The sandbox's API.
            database: The embedded PostgreSQL.
            directory: For Meltano's own database and the supervisor's output.
            seed: Draws victims, signals and moments.
        """
        self._api = api
        self._database = database
        self._draw = random.Random(seed)
        self._output = directory / "supervisor.log"
        self._env = pipeline_env(api, Database(database, database.database), directory)

    def rage(self, report: Report, kills: int, page_size: int, arguments: list[str]) -> None:
        """Load, killing as often as asked while it lasts, then let it finish."""
        self._env["BATCH_SIZE"] = str(page_size)
        started = time.monotonic()
        while True:
            with self._supervisor(arguments) as supervisor:
                while supervisor.poll() is None:
                    if report.kills.total() < kills:
                        self._strike(supervisor, report)
                    else:
                        supervisor.wait()
            report.exit_codes.append(supervisor.returncode)
            if supervisor.returncode == 0:
                break
            if len(report.exit_codes) > kills + 3:
                report.differences.append(f"not finished; see {self._output}")
                break
        report.seconds = time.monotonic() - started
        report.requests = self._api.stats()["requests"]
        self._compare(report)

    @contextmanager
    def _supervisor(self, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        command = [str(ROOT / ".venv/bin/datasync-ingest"), *arguments]
        with self._output.open("ab") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self._env, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(20)

    def _strike(self, supervisor: subprocess.Popen[bytes], report: Report) -> None:
        """Wait a moment, then kill one that is there."""
        victim = self._draw.choice(VICTIMS)
        if not self._wait_for_movement(supervisor):
            return
        time.sleep(self._draw.uniform(0.0, 1.0))
        signum = self._draw.choice(SIGNALS)
        pid = self._find(supervisor, victim)
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if victim == "postgres" else signum)
            name = signal.SIGKILL.name if victim == "postgres" else signal.Signals(signum).name
            report.kills[f"{victim} {name}"] += 1
        if victim == "postgres":
            self._revive()

    def _wait_for_movement(self, supervisor: subprocess.Popen[bytes]) -> bool:
        """Wait until this attempt has asked for a page: a kill before it proves little."""
        before = self._api.stats()["requests"]
        while supervisor.poll() is None:
            if self._api.stats()["requests"] > before:
                return True
            time.sleep(0.05)
        return False

    def _find(self, supervisor: subprocess.Popen[bytes], victim: str) -> int | None:
        if victim == "postgres":
            return self._database.pid()
        with suppress(psutil.Error):
            for process in psutil.Process(supervisor.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if any(Path(word).name == victim for word in process.cmdline()[:2]):
                        return int(process.pid)
        return None

    def _revive(self) -> None:
        """Start PostgreSQL again, as a service manager would; its children end first."""
        for _ in range(60):
            with suppress(SandboxError):
                if self._database.start(port=self._database.port):
                    return
            # The dying server is still seen, or its children still hold its memory.
            time.sleep(0.5)
        msg = "PostgreSQL does not come back"
        raise RuntimeError(msg)

    def _compare(self, report: Report) -> None:
        feed = {
            str(row.id): row_hash(
                (
                    row.session_id,
                    row.user_id,
                    row.type,
                    row.name,
                    row.properties,
                    row.timestamp,
                    row.session,
                )
            )
            for row in self._api.model.feed.rows()
        }
        query = (
            "SELECT id, session_id, user_id, type, name, properties, timestamp, session FROM events"
        )
        found, wrong = 0, []
        with psycopg.connect(self._database.url) as connection, connection.cursor("rows") as rows:
            for ident, *values in rows.execute(query):
                found += 1
                if feed.pop(ident, None) != row_hash(values):
                    wrong.append(ident)
        report.differences += [*_some(wrong, "is not the feed's"), *_some([*feed], "is missing")]
        with psycopg.connect(self._database.url) as connection:
            sent = connection.execute("SELECT coalesce(sum(emitted), 0) FROM pages").fetchone()
        report.written = int(sent[0]) if sent else 0
        if found != report.events:
            report.differences.append(f"{found:,} rows instead of {report.events:,}")


def _some(idents: list[str], what: str) -> list[str]:
    """Say of some rows what is wrong, and how many more there are."""
    more = len(idents) - SHOWN
    rest = [f"and so it is with {more:,} more"] if more > 0 else []
    return [*(f"row {ident} {what}" for ident in idents[:SHOWN]), *rest]


def storm(  # noqa: PLR0913 - what a storm is made of
    directory: Path,
    *,
    kills: int,
    events: int,
    page_size: int,
    seed: int = 1,
    arguments: list[str] | None = None,
) -> Report:
    """Load a feed under fire and compare.

    Args:
        directory: For data and logs.
        kills: How many.
        events: Events of the feed.
        page_size: Events per request.
        seed: Draws victims, signals and moments.
        arguments: More options for the supervisor, e.g. ``--bulk``.
    """
    options = ApiOptions(port=0, events=events, limit=10, window=3.0, latency="0-0.3", seed=seed)
    pages = -(-events // page_size)
    report = Report(events, pages)
    with running_api(options) as api, temporary_postgres(directory, durable=True) as database:
        Storm(api, database, directory, seed).rage(report, kills, page_size, arguments or [])
    return report
