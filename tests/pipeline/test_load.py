"""Loads by Meltano: everything, once, typed; then only what is new; stopped and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
from datasync_sandbox.testing import RunningApi, running_api

from tests.pipeline.pipeline_helpers import KEY, MELTANO, ROOT, STATE_ID, Database, pipeline_env

if TYPE_CHECKING:
    from pathlib import Path

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
RUN = [MELTANO, "run", "--force", "tap-datasync", "target-postgres"]


def _meltano(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MELTANO, *arguments], check=False, cwd=ROOT, env=env, capture_output=True, text=True
    )


def _bookmark(env: dict[str, str]) -> dict[str, object]:
    done = _meltano(env, "state", "get", STATE_ID)
    bookmark = json.loads(done.stdout)["singer_state"]["bookmarks"]["events"]
    assert isinstance(bookmark, dict)
    return bookmark


def _expected(api: RunningApi) -> tuple[object, ...]:
    moments = [row.timestamp for row in api.model.feed.rows() if row.timestamp]
    return (api.model.feed.total, api.model.feed.total, min(moments), max(moments))


def test_a_load_has_everything_and_the_next_one_only_what_is_new(
    database: Database, tmp_path: Path
) -> None:
    """Exact count, types and instants; a second run makes one request and adds nothing."""
    with running_api(events=11_000, key=KEY) as api:
        env = pipeline_env(api, database, tmp_path)
        first = _meltano(env, "run", "tap-datasync", "target-postgres")
        assert first.returncode == 0, first.stderr
        assert database.rows(COUNTS) == [_expected(api)]
        query = (
            "SELECT column_name, data_type, is_nullable, column_default "
            "FROM information_schema.columns WHERE table_name = 'events' ORDER BY ordinal_position"
        )
        assert database.rows(query) == COLUMNS
        bookmark = _bookmark(env)
        assert bookmark["cursor"] is None
        assert bookmark["events_seen"] == bookmark["total_events"] == 11_000
        total = database.rows("SELECT next_cursor, total_events FROM checkpoint")
        assert total == [(None, 11_000)]

        versions = database.rows("SELECT id, xmin::text, ctid::text FROM events ORDER BY id")
        before = api.stats()["requests"]
        second = _meltano(env, "run", "tap-datasync", "target-postgres")
        assert second.returncode == 0, second.stderr
        assert api.stats()["requests"] - before == 1
        # What lies within the lookback was sent again, and not one row was written for it.
        after = database.rows("SELECT id, xmin::text, ctid::text FROM events ORDER BY id")
        assert after == versions
        for said in (first.stdout, first.stderr, second.stderr, str(bookmark)):
            assert KEY not in said


def test_a_stopped_load_goes_on_where_it_was(database: Database, tmp_path: Path) -> None:
    """SIGTERM in the middle: state saved, no wait sat out, and not one request too many."""
    events, page = 2_000, 200
    # Its cursors live as long as the test, however slow the machine.
    feed = {"events": events, "key": KEY, "cursor_lifetime": 3600.0}
    with running_api(limit=4, window=1800.0, **feed) as api:
        env = {**pipeline_env(api, database, tmp_path), "BATCH_SIZE": str(page)}
        with subprocess.Popen(
            RUN,
            cwd=ROOT,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as run:
            try:
                while not _seen(database):
                    assert run.poll() is None, run.stderr and run.stderr.read()
                    time.sleep(0.1)
                words = _words_below(run.pid)
                assert not any(KEY in word for word in words), "the key is in the process list"
                run.send_signal(signal.SIGTERM)
                # Far less than the half hour that the limit makes it wait.
                assert run.wait(120) != 0
                log = run.stderr.read().decode() if run.stderr else ""
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(run.pid, signal.SIGKILL)
            assert KEY not in log
            assert "Traceback" not in log
        bookmark = _bookmark(env)
        seen = _seen(database)
        assert bookmark["cursor"]
        # Meltano may end before it has read the loader's last STATEs; the supervisor takes the
        # checkpoint instead.
        saved = int(str(bookmark["events_seen"]))
        assert 0 < saved <= seen
        assert saved % page == 0
        assert database.rows("SELECT count(*) FROM events")[0][0] >= seen

    with running_api(limit=100, **feed) as api:
        env["API_BASE_URL"] = api.url
        resumed = _meltano(env, "run", "--force", "tap-datasync", "target-postgres")
        assert resumed.returncode == 0, resumed.stderr
        assert database.rows(COUNTS) == [_expected(api)]
        assert api.stats()["pages"] <= (events - saved) // page + 1


def _words_below(pid: int) -> list[str]:
    """Return the words of the command lines of all processes below one."""
    words: list[str] = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it may have ended since
            words += process.cmdline()
    return words


def _seen(database: Database) -> int:
    if database.rows("SELECT to_regclass('checkpoint') IS NULL")[0][0]:
        return 0
    rows = database.rows("SELECT events_seen FROM checkpoint")
    return int(rows[0][0] or 0) if rows else 0
