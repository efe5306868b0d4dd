"""Kills tap, target, Meltano and PostgreSQL at random during a load.

The pipeline is the real one, started as ``run-ingestion.sh`` starts it, against a sandbox with
short rate-limit windows. In the end the table is compared with the feed, row by row, by a hash
over all columns.
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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
from datasync_sandbox.testing import (
    ApiOptions,
    ApiServer,
    SandboxError,
    running_api,
    temporary_postgres,
)

from tests.helpers import Database
from tests.pipeline.pipeline_helpers import Project, make_project

if TYPE_CHECKING:
    from collections.abc import Iterable

    from datasync_sandbox.testing import Cluster

KILL_TARGETS = ("tap-datasync", "target-postgres-checkpoint", "meltano", "postgres")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
SHOWN = 20
"""Differences of a kind that a report names; the others are counted."""

_RATE_LIMIT = 10
_WINDOW_SECONDS = 3.0


@dataclass
class Report:
    """The result of a chaos test.

    Attributes:
        events: Events of the feed.
        pages: Requests that a load without a kill needs.
        kills: Kills by target and signal.
        requests: Requests made.
        emitted: Rows sent to the target, as far as their page was committed.
        seconds: Duration.
        differences: How the table differs from the feed; empty when it does not.
        exit_codes: How the runs of ``datasync-ingest`` ended.
    """

    events: int
    pages: int
    kills: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    emitted: int = 0
    seconds: float = 0.0
    differences: list[str] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        by_target = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        lines = [
            f"kills       {self.kills.total()} ({by_target})",
            f"events      {self.events:,}",
            f"requests    {self.requests:,} ({self.pages:,} without a kill)",
            f"rows sent   {self.emitted:,} ({self.emitted - self.events:,} of them repeatedly)",
            f"duration    {self.seconds:.0f} s",
            f"exit codes  {self.exit_codes}",
            *(self.differences or ["the table equals the feed, row by row, in all columns"]),
        ]
        return "\n".join(lines)


@dataclass
class ChaosTest:
    """One load under random kills.

    Attributes:
        directory: For data and logs.
        kills: How many processes are killed.
        events: Events of the feed.
        page_size: Events per request.
        seed: Of the random targets, signals and times.
    """

    directory: Path
    kills: int
    events: int
    page_size: int
    seed: int = 1

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def run(self) -> Report:
        """Load while processes are killed, let the load finish, and compare."""
        report = Report(self.events, -(-self.events // self.page_size))
        options = ApiOptions(
            port=0,
            events=self.events,
            limit=_RATE_LIMIT,
            window=_WINDOW_SECONDS,
            latency="0-0.3",
            seed=self.seed,
        )
        with (
            running_api(options) as api,
            temporary_postgres(self.directory, durable=True) as cluster,
        ):
            project = make_project(api, Database(cluster, cluster.database), self.directory)
            project.env["BATCH_SIZE"] = str(self.page_size)
            started = time.monotonic()
            self._load(project, api, cluster, report)
            report.seconds = time.monotonic() - started
            report.requests = api.stats()["requests"]
            _compare(api, cluster, report)
        return report

    def _load(self, project: Project, api: ApiServer, cluster: Cluster, report: Report) -> None:
        path = self.directory / "output.log"
        while len(report.exit_codes) <= self.kills + 3:
            with path.open("ab") as output:
                process = subprocess.Popen(
                    [project.root / ".venv/bin/datasync-ingest"],
                    cwd=project.root,
                    env=project.env,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            try:
                while process.poll() is None:
                    if report.kills.total() < self.kills:
                        self._kill_one(process, api, cluster, report)
                    else:
                        process.wait()
            finally:
                process.terminate()
                process.wait(20)
            report.exit_codes.append(process.returncode)
            if process.returncode == 0:
                return
        report.differences.append(f"not finished; see {path}")

    def _kill_one(
        self,
        ingestion: subprocess.Popen[bytes],
        api: ApiServer,
        cluster: Cluster,
        report: Report,
    ) -> None:
        """Kill one process of the pipeline, some time after its next request."""
        target = self._random.choice(KILL_TARGETS)
        number = signal.SIGKILL if target == "postgres" else self._random.choice(SIGNALS)
        if not _wait_for_request(ingestion, api):
            return
        time.sleep(self._random.uniform(0.0, 1.0))
        pid = cluster.pid() if target == "postgres" else _find(ingestion, target)
        if pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            report.kills[f"{target} {number.name}"] += 1
        if target == "postgres":
            _restart(cluster)


def _wait_for_request(ingestion: subprocess.Popen[bytes], api: ApiServer) -> bool:
    """Wait for a request of the pipeline: an earlier kill would interrupt no page."""
    before = api.stats()["requests"]
    while ingestion.poll() is None:
        if api.stats()["requests"] > before:
            return True
        time.sleep(0.05)
    return False


def _find(ingestion: subprocess.Popen[bytes], program: str) -> int | None:
    with suppress(psutil.Error):
        for process in psutil.Process(ingestion.pid).children(recursive=True):
            with suppress(psutil.Error):
                if any(Path(word).name == program for word in process.cmdline()[:2]):
                    return int(process.pid)
    return None


def _restart(cluster: Cluster) -> None:
    """Start PostgreSQL again, as a service manager would."""
    for _ in range(60):
        with suppress(SandboxError):
            if cluster.start(port=cluster.port):
                return
        # The killed server's children still hold its memory.
        time.sleep(0.5)
    message = "PostgreSQL does not start again"
    raise RuntimeError(message)


def row_hash(values: Iterable[Any]) -> str:
    """Hash a row: text as it is, JSON with sorted keys, timestamps in seconds since 1970."""
    text = json.dumps(list(values), sort_keys=True, default=lambda t: t.timestamp().hex())
    return hashlib.sha256(text.encode()).hexdigest()


def _compare(api: ApiServer, cluster: Cluster, report: Report) -> None:
    columns = ("session_id", "user_id", "type", "name", "properties", "timestamp", "session")
    feed = {
        str(row.id): row_hash(getattr(row, column) for column in columns)
        for row in api.model.feed.rows()
    }
    found, wrong = 0, []
    with psycopg.connect(cluster.url) as connection, connection.cursor("rows") as rows:
        for ident, *values in rows.execute(f"SELECT id, {', '.join(columns)} FROM events".encode()):
            found += 1
            if feed.pop(ident, None) != row_hash(values):
                wrong.append(ident)
    report.differences += [
        *differences(wrong, "differs from the feed"),
        *differences([*feed], "is missing"),
    ]
    with psycopg.connect(cluster.url) as connection:
        emitted = connection.execute("SELECT coalesce(sum(emitted), 0) FROM pages").fetchone()
    report.emitted = int(emitted[0]) if emitted else 0
    if found != report.events:
        report.differences.append(f"{found:,} rows instead of {report.events:,}")


def differences(idents: list[str], text: str) -> list[str]:
    """Return a line for each of the first rows, and one for the number of the others."""
    more = len(idents) - SHOWN
    rest = [f"{more:,} more: {text}"] if more > 0 else []
    return [*(f"row {ident} {text}" for ident in idents[:SHOWN]), *rest]
