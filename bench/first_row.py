"""Measure the time from a fresh clone to the first row, and that of a second run.

    python3 bench/first_row.py [--warm]

Clones the committed state of this checkout into a temporary directory and runs
`sh run-ingestion.sh` there twice, with an empty home directory and so without any package cache;
`--warm` keeps the caches of this user. Uses the standard library alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EVENTS = "20000"
FOREIGN = ("API_", "BATCH_", "DB_", "MELTANO_", "TAP_", "TARGET_", "UV_CACHE", "XDG_")
# Run by the clone's Python: waits until the sandbox's database has a row.
WAIT_FOR_ROW = """
import pathlib, shlex, time
import psycopg

while True:
    try:
        text = pathlib.Path(".sandbox/env").read_text()
        env = dict(word.split("=", 1) for word in shlex.split(text) if "=" in word)
        names = {"host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD"}
        place = {name: env[f"DB_{variable}"] for name, variable in names.items()}
        with psycopg.connect(dbname=env["DB_NAME"], **place) as connection:
            if connection.execute("SELECT 1 FROM events LIMIT 1").fetchone():
                break
    except (OSError, KeyError, psycopg.Error):
        pass
    time.sleep(0.02)
"""


def run(clone: Path, env: dict[str, str], *, wait_for_row: bool) -> tuple[float, float | None]:
    """Run the ingestion; returns the seconds to its end, and to the first row."""
    command = ["sh", "run-ingestion.sh", "--events", EVENTS, "--port", "0", "--db-port", "0"]
    started, first = time.monotonic(), None
    with (clone / "output").open("ab") as output:
        process = subprocess.Popen(command, cwd=clone, env=env, stdout=output, stderr=output)
    if wait_for_row:
        python = clone / ".venv" / "bin" / "python"
        while not python.exists() and process.poll() is None:
            time.sleep(0.02)
        subprocess.run([python, "-c", WAIT_FOR_ROW], cwd=clone, env=env, check=True, timeout=120)
        first = time.monotonic() - started
    if process.wait() != 0:
        raise SystemExit((clone / "output").read_text())
    return time.monotonic() - started, first


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the time to the first row.")
    parser.add_argument("--warm", action="store_true", help="with this user's package caches")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "clone"
        env = {name: text for name, text in os.environ.items() if not name.startswith(FOREIGN)}
        if not args.warm:
            env["HOME"] = place
        started = time.monotonic()
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)  # noqa: S607
        cloned = time.monotonic() - started
        try:
            done, first = run(clone, env, wait_for_row=True)
            again, _ = run(clone, env, wait_for_row=False)
        finally:
            stop = ["sh", "run-ingestion.sh", "--stop-sandbox"]
            subprocess.run(stop, cwd=clone, env=env, check=True, stdout=subprocess.DEVNULL)
        print(f"clone                {cloned:5.1f} s")
        print(f"first row            {first:5.1f} s")
        print(f"{int(EVENTS):,} events loaded {done:5.1f} s")
        print(f"second run           {again:5.1f} s")


if __name__ == "__main__":
    main()
