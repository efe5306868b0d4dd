"""The checkout of the tests: fakes that are real processes, and what they were asked."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
from datasync_ingestion import processes
from datasync_ingestion.settings import MELTANO_NAMES, NAMES, UNWATCHED, Database

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from pathlib import Path

    from datasync_sandbox.testing import Cluster

# Meltano: answers `state`, or complains of what is in complaint.log; for `run` it follows the
# next entry of plays.json.
FAKE_MELTANO = """
import json, os, pathlib, subprocess, sys, time
root = pathlib.Path(os.environ["MELTANO_PROJECT_ROOT"])
words = sys.argv[1:]
with (root / "asked.jsonl").open("a") as asked:
    names = ("API_BASE_URL", "API_KEY", "BATCH_SIZE", "DB_HOST", "DB_PORT", "DB_USER",
             "DB_PASSWORD", "DB_NAME", "TAP_DATASYNC_BATCH_CONFIG", "MELTANO_RUN_FULL_REFRESH")
    env = {name: os.environ[name] for name in names if name in os.environ}
    asked.write(json.dumps({"words": words, "env": env, "session": os.getsid(0)}) + "\\n")
state = root / "state.json"
if "state" in words:
    verb = words[words.index("state") + 1]
    if (root / "complaint.log").exists():
        sys.exit((root / "complaint.log").read_text())
    if verb == "get":
        print(state.read_text() if state.exists() else "{}")
    elif verb == "set":
        state.write_text(words[-1])
    else:
        state.unlink(missing_ok=True)
    sys.exit(0)
plays = json.loads((root / "plays.json").read_text())
play = plays.pop(0)
(root / "plays.json").write_text(json.dumps(plays))
def log(**line):
    print(json.dumps({"level": "info", "timestamp": "2026-01-27T19:20:12Z", **line}), flush=True)
log(event="Running job")
config = root / ".meltano/run/tap-datasync"
config.mkdir(parents=True, exist_ok=True)
(config / "tap.1.config.json").write_text(os.environ["API_KEY"])
for line in play.get("log", []):
    log(**line)
if "sql" in play:
    import psycopg
    e = os.environ
    with psycopg.connect(host=e["DB_HOST"], port=e["DB_PORT"], user=e["DB_USER"],
                         password=e["DB_PASSWORD"], dbname=e["DB_NAME"], autocommit=True) as db:
        db.execute(play["sql"])
if play.get("tap"):
    tap = subprocess.Popen([root / ".meltano/extractors/tap-datasync/venv/bin/tap-datasync",
                            json.dumps(play["tap"])], stdout=subprocess.PIPE)
    tap.stdout.readline()
    log(event="Page 1", name="tap-datasync")
    code = tap.wait()
    log(event="The state is saved")
    log(event="Block run completed", exit_codes={"extractors": code} if code else {})
    sys.exit(1 if code else 0)
if play.get("kill"):
    os.kill(os.getpid(), play["kill"])
(config / "tap.1.config.json").unlink()
sys.exit(play.get("exit", 0))
"""

# The tap: says that it is there, and ends at SIGTERM with 143, or not at all.
FAKE_TAP = """
import json, signal, sys, time
play = json.loads(sys.argv[1])
signal.signal(signal.SIGTERM, signal.SIG_IGN if play.get("deaf") else lambda *_: sys.exit(143))
print("here", flush=True)
time.sleep(play.get("seconds", 60))
"""

# The sandbox: the database is the test's, the API is none.
FAKE_SANDBOX = """
import json, os, pathlib, sys
root = pathlib.Path.cwd()
words = sys.argv[1:]
with (root / "sandbox.jsonl").open("a") as asked:
    asked.write(json.dumps(words) + "\\n")
directory = root / ".sandbox"
if words[0] == "status":
    print("API:      not running\\nDatabase: not running")
    sys.exit(3)
if words[0] == "down":
    print("stopped")
    sys.exit(0)
if "--wrong" in words:
    print("Usage: up\\n\\nError: No such option: --wrong", file=sys.stderr)
    sys.exit(2)
directory.mkdir(exist_ok=True)
args = [word for word in words[1:] if word.startswith("--") and word != "--db-only"]
(directory / "api.json").write_text(json.dumps({"args": args, "created": 1.5, "key": "k"}))
(directory / "env").write_text((root / "sandbox.env").read_text())
was = "already running, " if (root / "was-running").exists() else ""
if "--db-only" not in words:
    print(f"API:      http://127.0.0.1:1/api/v1 ({was}pid 1)")
print(f"Database: postgresql://... ({was}pid 2)")
"""

_TABLES = """
    CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS rejected_events (rejection_id TEXT);
    CREATE TABLE IF NOT EXISTS checkpoint (
        id INTEGER PRIMARY KEY DEFAULT 1, next_cursor TEXT, total_events INTEGER,
        updated_at TIMESTAMPTZ, state JSONB, cursor_expires_at TIMESTAMPTZ, walk_open BOOLEAN,
        walk_newest TIMESTAMPTZ, walk_oldest TIMESTAMPTZ, complete_to TIMESTAMPTZ,
        events_seen BIGINT, events_emitted BIGINT);
"""


def load(upto: int, total: int = 20, cursor: str | None = None) -> str:
    """SQL of a page: events up to a number, and the checkpoint after them."""
    state = json.dumps({"bookmarks": {"events": {"cursor": cursor, "events_seen": upto}}})
    return f"""{_TABLES}
        INSERT INTO events SELECT 'e' || n FROM generate_series(1, {upto}) AS n
        ON CONFLICT DO NOTHING;
        INSERT INTO checkpoint
            (total_events, updated_at, state, walk_open, complete_to, events_seen)
        VALUES ({total}, clock_timestamp(), '{state}', {cursor is not None},
                {"NULL" if cursor else "now()"}, {upto})
        ON CONFLICT (id) DO UPDATE SET
            total_events = excluded.total_events, updated_at = excluded.updated_at,
            state = excluded.state, walk_open = excluded.walk_open,
            complete_to = excluded.complete_to, events_seen = excluded.events_seen;
    """


FINISH = {"sql": load(20)}


def failed(tap: int, sentence: str) -> dict[str, object]:
    return {
        "log": [
            {"event": sentence, "level": "critical", "name": "tap-datasync"},
            {"event": "Block run completed", "level": "error", "exit_codes": {"extractors": tap}},
        ],
        "exit": 1,
    }


@dataclass(frozen=True)
class Checkout:
    """The checkout. `play` says what the next runs of Meltano do."""

    root: Path

    def play(self, *plays: dict[str, Any]) -> None:
        (self.root / "plays.json").write_text(json.dumps(plays))

    def use(self, cluster: Cluster) -> None:
        """Let the sandbox hand out this database."""
        lines = {
            "API_BASE_URL": "http://127.0.0.1:1/api/v1",
            "API_KEY": "sandbox-key",
            "DB_HOST": cluster.host,
            "DB_PORT": cluster.port,
            "DB_USER": cluster.user,
            "DB_PASSWORD": cluster.password,
            "DB_NAME": cluster.database,
        }
        text = "".join(f"{name}={value}\n" for name, value in lines.items())
        (self.root / "sandbox.env").write_text(text)

    def asked(self, verb: str) -> list[dict[str, Any]]:
        """What Meltano was asked to do, of one kind: `run`, `get`, `set` or `clear`."""
        path = self.root / "asked.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [asked for asked in map(json.loads, lines) if verb in asked["words"]]

    def sandbox(self) -> list[list[str]]:
        """What the sandbox was asked to do."""
        path = self.root / "sandbox.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def start(
        self,
        *options: str,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.STDOUT,
        **env: str,
    ) -> subprocess.Popen[str]:
        """Start the supervisor as a process."""
        ours = {*NAMES, *MELTANO_NAMES, *UNWATCHED}
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
        """Run the supervisor to its end; returns exit code and output."""
        process = self.start(*options, **env)
        try:
            said, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            message = f"It does not end:\n{said}\n{self.log()}"
            raise AssertionError(message) from None
        return process.returncode, said

    def log(self) -> str:
        """All that is in the logs."""
        return "".join(path.read_text() for path in (self.root / ".run" / "log").glob("*.log"))

    def end_leftovers(self) -> None:
        for asked in self.asked("run"):
            for process in processes.members(asked["session"]):
                process.kill()


def make_checkout(root: Path) -> Checkout:
    root.mkdir()
    (root / "meltano.yml").write_text("")
    (root / ".run").mkdir()
    tap = root / ".meltano/extractors/tap-datasync/venv/bin/tap-datasync"
    programs = {
        root / ".venv/bin/meltano": FAKE_MELTANO,
        root / ".venv/bin/datasync-sandbox": FAKE_SANDBOX,
        tap: FAKE_TAP,
    }
    for path, source in programs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not by `#!`: the path of an interpreter may be longer than the kernel takes.
        module = path.with_suffix(".py")
        module.write_text(source)
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{module}" "$@"\n')
        path.chmod(0o755)
    return Checkout(root)


def place(cluster: Cluster) -> Database:
    return Database(cluster.host, cluster.port, cluster.user, cluster.password, cluster.database)


def nowhere() -> Database:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return Database("127.0.0.1", server.getsockname()[1], "u", "", "events")


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something that another process does."""
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return found


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Signal the supervisor; returns exit code and output."""
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said
