"""The checkout of the tests: fake programs that are real processes, and what they received."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil
from datasync_ingestion import database
from datasync_ingestion.config import MELTANO_NAMES, NAMES, UNSUPPORTED_NAMES
from datasync_ingestion.meltano import pipeline_processes
from datasync_monitor.database import DatabaseSettings
from datasync_monitor.environment import SECRETS

from tests.monitoring.monitoring_helpers import settings_of

if TYPE_CHECKING:
    import signal
    from pathlib import Path

    from datasync_ingestion.database import PipelineRun
    from datasync_monitor.database import ReconnectingConnection
    from datasync_sandbox.testing import Cluster

# Fake Meltano: handles `state`, or fails with the text of state_error.log; `run` executes the next
# entry of attempts.json.
FAKE_MELTANO = """
import json, os, pathlib, subprocess, sys, time
root = pathlib.Path(os.environ["MELTANO_PROJECT_ROOT"])
words = sys.argv[1:]
with (root / "calls.jsonl").open("a") as calls:
    names = ("API_BASE_URL", "API_KEY", "BATCH_SIZE", "DB_HOST", "DB_PORT", "DB_USER",
             "DB_PASSWORD", "DB_NAME", "MELTANO_RUN_FULL_REFRESH")
    env = {name: os.environ[name] for name in names if name in os.environ}
    calls.write(json.dumps({"words": words, "env": env, "pid": os.getpid()}) + "\\n")
state = root / "state.json"
if "state" in words:
    verb = words[words.index("state") + 1]
    if (root / "state_error.log").exists():
        sys.exit((root / "state_error.log").read_text())
    if verb == "get":
        print(state.read_text() if state.exists() else "{}")
    elif verb == "set":
        state.write_text(words[-1])
    else:
        state.unlink(missing_ok=True)
    sys.exit(0)
attempts = json.loads((root / "attempts.json").read_text())
attempt = attempts.pop(0)
(root / "attempts.json").write_text(json.dumps(attempts))
def log(**line):
    print(json.dumps({"level": "info", "timestamp": "2026-01-27T19:20:12Z", **line}), flush=True)
log(event="Running job")
config = root / ".meltano/run/tap-datasync"
config.mkdir(parents=True, exist_ok=True)
(config / "tap.1.config.json").write_text(os.environ["API_KEY"])
for line in attempt.get("log", []):
    log(**line)
if "sql" in attempt:
    import psycopg
    e = os.environ
    with psycopg.connect(host=e["DB_HOST"], port=e["DB_PORT"], user=e["DB_USER"],
                         password=e["DB_PASSWORD"], dbname=e["DB_NAME"], autocommit=True) as db:
        db.execute(attempt["sql"])
if attempt.get("tap"):
    tap = subprocess.Popen([root / ".venv/bin/tap-datasync", json.dumps(attempt["tap"])],
                           stdout=subprocess.PIPE)
    tap.stdout.readline()
    log(event="Page 1", name="tap-datasync")
    code = tap.wait()
    log(event="The state is saved")
    log(event="Block run completed", exit_codes={"extractors": code} if code else {})
    sys.exit(1 if code else 0)
if attempt.get("kill"):
    os.kill(os.getpid(), attempt["kill"])
(config / "tap.1.config.json").unlink()
sys.exit(attempt.get("exit", 0))
"""

# Fake tap: ends at SIGTERM with 143, or ignores it.
FAKE_TAP = """
import json, signal, sys, time
options = json.loads(sys.argv[1])
ignore = options.get("ignores_sigterm")
signal.signal(signal.SIGTERM, signal.SIG_IGN if ignore else lambda *_: sys.exit(143))
print("started", flush=True)
time.sleep(options.get("seconds", 60))
"""

# Fake sandbox: reports the test's database, and an API that does not exist.
FAKE_SANDBOX = """
import json, os, pathlib, sys
root = pathlib.Path.cwd()
words = sys.argv[1:]
with (root / "sandbox.jsonl").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
if (root / "sandbox_error.log").exists():
    sys.exit((root / "sandbox_error.log").read_text())
if words[0] == "down":
    print("stopped")
    sys.exit(0)
if "--wrong" in words:
    print("Usage: up\\n\\nError: No such option: --wrong", file=sys.stderr)
    sys.exit(2)
started = not (root / "was-running").exists()
feed = " ".join(sorted(word for word in words if word.startswith("--events")))
api = {"url": "http://127.0.0.1:1/api/v1", "key": "sample-key", "feed": feed, "pid": 1,
       "started": started}
database = {**json.loads((root / "database.json").read_text()), "pid": 2, "started": started}
print(json.dumps({"api": None if "--db-only" in words else api, "database": database}))
"""

_TABLES = """
    CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS rejected_events (rejection_id TEXT);
    CREATE TABLE IF NOT EXISTS checkpoint (
        id INTEGER PRIMARY KEY DEFAULT 1, next_cursor TEXT, total_events INTEGER,
        updated_at TIMESTAMPTZ, state JSONB, cursor_expires_at TIMESTAMPTZ,
        scan_in_progress BOOLEAN, scan_newest_at TIMESTAMPTZ, scan_oldest_at TIMESTAMPTZ,
        high_watermark TIMESTAMPTZ, events_seen BIGINT, events_emitted BIGINT,
        events_expected BIGINT, loaded_range_count INTEGER);
"""


def load(upto: int, total: int = 20, cursor: str | None = None) -> str:
    """SQL of a page: events up to a number, and the checkpoint after them."""
    state = json.dumps({"bookmarks": {"events": {"cursor": cursor, "events_seen": upto}}})
    return f"""{_TABLES}
        INSERT INTO events SELECT 'e' || n FROM generate_series(1, {upto}) AS n
        ON CONFLICT DO NOTHING;
        INSERT INTO checkpoint
            (total_events, updated_at, state, scan_in_progress, high_watermark, events_seen)
        VALUES ({total}, clock_timestamp(), '{state}', {cursor is not None},
                {"NULL" if cursor else "now()"}, {upto})
        ON CONFLICT (id) DO UPDATE SET
            total_events = excluded.total_events, updated_at = excluded.updated_at,
            state = excluded.state, scan_in_progress = excluded.scan_in_progress,
            high_watermark = excluded.high_watermark, events_seen = excluded.events_seen;
    """


FINISH = {"sql": load(20)}


def failure(exit_code: int, message: str, plugin: str = "tap-datasync") -> dict[str, Any]:
    """An attempt in which a plugin fails."""
    kind = "extractors" if plugin == "tap-datasync" else "loaders"
    return {
        "log": [
            {"event": message, "level": "critical", "name": plugin},
            {"event": "Block run completed", "level": "error", "exit_codes": {kind: exit_code}},
        ],
        "exit": 1,
    }


@dataclass(frozen=True)
class Checkout:
    """A checkout with fake programs."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of its programs."""
        return {**os.environ, "MELTANO_PROJECT_ROOT": str(self.root)}

    def plan(self, *attempts: dict[str, Any]) -> None:
        """Define what the next runs of Meltano do."""
        (self.root / "attempts.json").write_text(json.dumps(attempts))

    def use(self, cluster: Cluster) -> None:
        """Let the sandbox report this database."""
        (self.root / "database.json").write_text(json.dumps(asdict(settings_of(cluster))))

    def calls(self, verb: str) -> list[dict[str, Any]]:
        """The calls of Meltano of one kind: `run`, `get`, `set` or `clear`."""
        path = self.root / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if verb in call["words"]]

    def sandbox_calls(self) -> list[list[str]]:
        path = self.root / "sandbox.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def start(
        self,
        *options: str,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.STDOUT,
        **env: str,
    ) -> subprocess.Popen[str]:
        """Start `datasync-ingest` as a process."""
        ours = {*NAMES, *MELTANO_NAMES, *UNSUPPORTED_NAMES, *(f"{name}_FILE" for name in SECRETS)}
        clean = {name: value for name, value in os.environ.items() if name not in ours}
        return subprocess.Popen(
            [sys.executable, "-c", "from datasync_ingestion.cli import main; main()", *options],
            cwd=self.root,
            env={**clean, **env},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )

    def run(self, *options: str, **env: str) -> tuple[int, str]:
        """Run `datasync-ingest` to its end; returns exit code and output."""
        process = self.start(*options, **env)
        try:
            output, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            message = f"It does not end:\n{output}\n{self.log()}"
            raise AssertionError(message) from None
        return process.returncode, output

    def log(self) -> str:
        """The contents of all logs."""
        return "".join(path.read_text() for path in (self.root / ".run" / "log").glob("*.log"))

    def kill_remaining(self) -> None:
        for process in pipeline_processes(self.root):
            process.kill()


def make_checkout(root: Path) -> Checkout:
    root.mkdir()
    (root / "meltano.yml").write_text("")
    (root / ".run").mkdir()
    programs = {"meltano": FAKE_MELTANO, "datasync-sandbox": FAKE_SANDBOX, "tap-datasync": FAKE_TAP}
    for name, source in programs.items():
        path = root / ".venv/bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not by `#!`: the path of an interpreter may be longer than the kernel accepts. The
        # module's directory is not on sys.path of a script that is named so.
        module = root / ".venv/lib" / name
        module.parent.mkdir(exist_ok=True)
        module.write_text(source)
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{module}" "$@"\n')
        path.chmod(0o755)
    return Checkout(root)


def begin_run(connection: ReconnectingConnection, source: str) -> PipelineRun:
    settings = connection.settings
    return connection.run(lambda conn: database.begin_run(conn, settings, source))


def own_database(cluster: Cluster) -> dict[str, str]:
    """Settings of a user with an API and a database of their own."""
    return {
        "API_KEY": "real-key-123",
        "API_BASE_URL": "https://api.test/api/v1",
        "DB_HOST": cluster.host,
        "DB_PORT": str(cluster.port),
        "DB_USER": cluster.user,
        "DB_PASSWORD": cluster.password,
        "DB_NAME": cluster.database,
    }


def closed_port() -> DatabaseSettings:
    """An address without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return DatabaseSettings("127.0.0.1", server.getsockname()[1], "u", "", "events")


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Signal `datasync-ingest`; returns exit code and output."""
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output
