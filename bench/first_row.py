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


def run(clone: Path, env: dict[str, str]) -> float:
    """Run the ingestion; returns its seconds."""
    command = ["sh", "run-ingestion.sh", "--events", EVENTS, "--port", "0", "--db-port", "0"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.monotonic() - started


def first_row_at(clone: Path, env: dict[str, str]) -> float:
    """Return when the first row was inserted, as Unix time."""
    query = "SELECT extract(epoch FROM min(ingested_at)) FROM events"
    command = [".venv/bin/datasync-sandbox", "db", "psql", "--", "--no-align", "--tuples-only"]
    done = subprocess.run(
        [*command, f"--command={query}"], cwd=clone, env=env, capture_output=True, check=True
    )
    return float(done.stdout)


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
            run_at = time.time()
            done = run(clone, env)
            first = first_row_at(clone, env) - run_at
            again = run(clone, env)
        finally:
            stop = ["sh", "run-ingestion.sh", "--stop-sandbox"]
            subprocess.run(stop, cwd=clone, env=env, check=True, stdout=subprocess.DEVNULL)
        print(f"clone                {cloned:5.1f} s")
        print(f"first row            {first:5.1f} s")
        print(f"{int(EVENTS):,} events loaded {done:5.1f} s")
        print(f"second run           {again:5.1f} s")


if __name__ == "__main__":
    main()
