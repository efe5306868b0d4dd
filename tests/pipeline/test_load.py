"""Loads by Meltano: complete and typed; then only what is new; stopped, resumed, refreshed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil
from datasync_sandbox.testing import ApiServer, running_api

from tests.pipeline.pipeline_helpers import KEY, PIPELINE, Project, feed_ids, make_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers import Database

COLUMNS = [
    ("id", "text", "NO", None),
    ("session_id", "text", "YES", None),
    ("user_id", "text", "YES", None),
    ("type", "text", "YES", None),
    ("name", "text", "YES", None),
    ("properties", "jsonb", "YES", None),
    ("timestamp", "timestamp with time zone", "YES", None),
    ("session", "jsonb", "YES", None),
    ("ingested_at", "timestamp with time zone", "YES", "now()"),
]
COUNTS = "SELECT count(*), count(DISTINCT id), min(timestamp), max(timestamp) FROM events"
VERSIONS = "SELECT id, xmin::text, ctid::text FROM events ORDER BY id"


def expected_counts(api: ApiServer) -> tuple[object, ...]:
    timestamps = [row.timestamp for row in api.model.feed.rows() if row.timestamp]
    return (api.model.feed.total, api.model.feed.total, min(timestamps), max(timestamps))


def test_load_is_complete_and_next_one_is_incremental(database: Database, tmp_path: Path) -> None:
    with running_api(events=11_000, key=KEY) as api:
        project = make_project(api, database, tmp_path)
        first = project.meltano("run", *PIPELINE)
        assert first.returncode == 0, first.stderr
        assert database.rows(COUNTS) == [expected_counts(api)]
        query = (
            "SELECT column_name, data_type, is_nullable, column_default "
            "FROM information_schema.columns WHERE table_name = 'events' ORDER BY ordinal_position"
        )
        assert database.rows(query) == COLUMNS
        bookmark = project.bookmark()
        assert bookmark["cursor"] is None
        assert bookmark["events_seen"] == bookmark["total_events"] == 11_000
        checkpoint = database.rows("SELECT next_cursor, total_events FROM checkpoint")
        assert checkpoint == [(None, 11_000)]

        versions = database.rows(VERSIONS)
        before = api.stats()["requests"]
        second = project.meltano("run", *PIPELINE)
        assert second.returncode == 0, second.stderr
        assert api.stats()["requests"] - before == 1
        # Events within the lookback are sent again, and no row is written for them.
        assert database.rows(VERSIONS) == versions
        for text in (first.stdout, first.stderr, second.stderr, str(bookmark)):
            assert KEY not in text


@contextmanager
def started(project: Project, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a pipeline in its own session, and kill it afterwards."""
    with subprocess.Popen(
        [project.meltano_path, "run", "--force", *options, *PIPELINE],
        cwd=project.root,
        env=project.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as run:
        try:
            yield run
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)


def wait_for_page(database: Database, run: subprocess.Popen[bytes], before: int = 0) -> None:
    while database.count("pages") <= before:
        assert run.poll() is None, run.stderr and run.stderr.read()
        time.sleep(0.1)


def test_stopped_load_is_resumed(database: Database, tmp_path: Path) -> None:
    """After SIGTERM the state is saved, without a further request or a wait for the limit."""
    events, page = 2_000, 200
    # Its cursors live as long as the test, however slow the machine.
    feed: dict[str, Any] = {"events": events, "key": KEY, "cursor_lifetime": 3600.0}
    with running_api(limit=4, window=1800.0, **feed) as api:
        project = make_project(api, database, tmp_path)
        project.env["BATCH_SIZE"] = str(page)
        with started(project) as run:
            wait_for_page(database, run)
            words = _words_below(run.pid)
            assert not any(KEY in word for word in words), "the key is in the process list"
            run.send_signal(signal.SIGTERM)
            # Far less than the half hour of the rate limit's window.
            assert run.wait(120) != 0
            log = run.stderr.read().decode() if run.stderr else ""
        assert KEY not in log
        assert "Traceback" not in log
        bookmark = project.bookmark()
        seen = database.rows("SELECT events_seen FROM checkpoint")[0][0]
        assert bookmark["cursor"]
        # Meltano may end before it has read the target's last STATE; run-ingestion.sh resumes from
        # the checkpoint instead.
        saved = int(bookmark["events_seen"])
        assert 0 < saved <= seen
        assert saved % page == 0
        assert database.count() >= seen
        port = api.port

    with running_api(limit=100, port=port, **feed) as api:
        resumed = project.meltano("run", "--force", *PIPELINE)
        assert resumed.returncode == 0, resumed.stderr
        assert database.rows(COUNTS) == [expected_counts(api)]
        assert api.stats()["pages"] <= (events - saved) // page + 1


def test_meltano_state_survives_any_sequence_of_full_refreshes(
    database: Database, tmp_path: Path
) -> None:
    """Meltano merges a new state into the old one, and fails to merge null with an object."""
    with running_api(events=1_500, limit=1_000, key=KEY) as api:
        project = make_project(api, database, tmp_path)
        project.env["BATCH_SIZE"] = "100"
        for options in ([], ["--full-refresh"], ["--full-refresh"]):
            done = project.meltano("run", *options, *PIPELINE)
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stderr
            assert project.bookmark()["cursor"] is None
        pages = database.count("pages")
        with running_api(events=1_500, limit=1, window=3600.0, key=KEY) as slow:
            project.env["API_BASE_URL"] = slow.url
            with started(project, "--full-refresh") as killed:
                wait_for_page(database, killed, pages)
        project.env["API_BASE_URL"] = api.url
        normal = project.meltano("run", "--force", *PIPELINE)
        assert normal.returncode == 0, normal.stderr
        assert "Failed to" not in normal.stderr
        assert database.rows(COUNTS) == [expected_counts(api)]
        bookmark = project.bookmark()
        assert (bookmark["source"], bookmark["cursor"]) == (api.url, None)


def test_missing_state_resumes_from_checkpoint_with_run_ingestion(
    database: Database, tmp_path: Path
) -> None:
    """A new checkout or container with the old database: it resumes from the checkpoint."""
    with running_api(events=11_000, key=KEY) as api:
        first = make_project(api, database, tmp_path)
        assert first.meltano("run", *PIPELINE).returncode == 0
        before = api.stats()["requests"]
        (tmp_path / "again").mkdir()
        second = make_project(api, database, tmp_path / "again")
        assert second.bookmark() == {}
        for options, requests in (([], 1), (["--full-refresh"], 3)):
            done = subprocess.run(
                [second.root / ".venv/bin/datasync-ingest", *options],
                cwd=second.root,
                env=second.env,
                check=False,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert ("resuming from the checkpoint" in done.stdout) == (not options)
            assert api.stats()["requests"] - before == requests
            before = api.stats()["requests"]
        assert {ident for (ident,) in database.rows("SELECT id FROM events")} == set(feed_ids(api))


def _words_below(pid: int) -> list[str]:
    """Return the words of the command lines of all processes below one."""
    words: list[str] = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            words += process.cmdline()
    return words
