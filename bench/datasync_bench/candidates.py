"""What is measured: this project, its alternatives, and baselines that do less work."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from datasync_bench.environment import BENCH, BIN, ROOT, WORK

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasync_bench.environment import Environment
    from datasync_bench.processes import Command, Usage

PEERS = BENCH / "peers"
PYTHON = Path(sys.executable)

STOCK_SETTINGS = {
    "default_target_schema": "public",
    "use_copy": True,
    "add_record_metadata": False,
    "activate_version": False,
    "validate_records": False,
}
"""The stock target with the settings of meltano.yml; its defaults take twice as long."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row of the comparison.

    Attributes:
        title: Name in the report.
        run: Loads the feed of an environment into its empty database.
        loads: Whether the table is filled.
    """

    title: str
    run: Callable[[Environment], Usage]
    loads: bool = True


def _write(name: str, document: object) -> Path:
    path = WORK / name
    path.write_text(json.dumps(document))
    return path


def tap_config(environment: Environment) -> Path:
    """Write the settings of a tap."""
    env = environment.variables
    return _write("tap.json", {"api_url": env["API_BASE_URL"], "api_key": env["API_KEY"]})


def target_config(environment: Environment, **settings: object) -> Path:
    """Write the settings of a target."""
    env = environment.variables
    connection = {
        "host": env["DB_HOST"],
        "port": int(env["DB_PORT"]),
        "user": env["DB_USER"],
        "password": env["DB_PASSWORD"],
        "database": env["DB_NAME"],
    }
    return _write("target.json", {**connection, **settings})


def pipe(environment: Environment, state: str | None = None) -> Usage:
    """Run ``tap-datasync | target-postgres-checkpoint``.

    Args:
        environment: API and database.
        state: A Singer state, as JSON, to continue from.
    """
    tap: Command = [BIN / "tap-datasync", "--config", tap_config(environment)]
    if state is not None:
        tap += ["--state", _write("state.json", json.loads(state))]
    target: Command = [BIN / "target-postgres-checkpoint", "--config", target_config(environment)]
    return environment.run({"tap": tap, "target": target})


def meltano(environment: Environment) -> Usage:
    """Run ``meltano run tap-datasync target-postgres`` with the meltano.yml of this checkout."""
    suffix = f"--state-id-suffix=bench-{time.time_ns()}"
    command: Command = [
        *(BIN / "meltano", "--log-format=json", "--environment=dev", "run", "--no-install"),
        *("--force", suffix, "tap-datasync", "target-postgres"),
    ]
    return environment.run(
        {"meltano": command},
        # A separate database, so that the state of a real load in this checkout is not changed.
        MELTANO_DATABASE_URI=f"sqlite:///{WORK / 'meltano.db'}",
        MELTANO_PROJECT_ROOT=str(ROOT),
    )


def sdk_tap(environment: Environment) -> Usage:
    """Run a tap made from the SDK's template, piped into the stock target."""
    tap: Command = [PYTHON, PEERS / "sdk_tap.py", "--config", tap_config(environment)]
    config = target_config(environment, **STOCK_SETTINGS)
    target: Command = [BIN / "target-postgres", "--config", config]
    return environment.run({"tap": tap, "target": target})


def dlt(environment: Environment, disposition: str) -> Usage:
    """Run dlt with its REST source and its PostgreSQL destination."""
    command: Command = [PYTHON, PEERS / "dlt_pipeline.py", disposition]
    return environment.run({"dlt": command}, RUNTIME__DLTHUB_TELEMETRY="false")


def hand_loop(environment: Environment, pause_seconds: float = 0.0) -> Usage:
    """Run a hand-written loop: request, multi-row INSERT, pause."""
    return environment.run({"loop": [PYTHON, PEERS / "hand_loop.py", str(pause_seconds)]})


def baseline(environment: Environment, step: str) -> Usage:
    """Run a baseline; COPY text is prepared once per feed and not measured."""
    rows = WORK / f"rows-{environment.events}"
    if step != "fetch" and not rows.exists():
        part = rows.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        feed: Command = [BIN / "datasync-sandbox", "feed", f"--events={environment.events}"]
        prepare: Command = [PYTHON, PEERS / "baselines.py", "prepare", part]
        environment.run({"feed": feed, "prepare": prepare})
        part.rename(rows)
    return environment.run({"baseline": [PYTHON, PEERS / "baselines.py", step, rows]})


CANDIDATES = {
    "pipe": Candidate("tap-datasync \\| target-postgres-checkpoint", pipe),
    "meltano": Candidate("meltano run tap-datasync target-postgres", meltano),
    "sdk-tap": Candidate("plain SDK tap \\| stock target-postgres", sdk_tap),
    "dlt-append": Candidate("dlt, append", partial(dlt, disposition="append")),
    "dlt-merge": Candidate("dlt, merge", partial(dlt, disposition="merge")),
    "hand-loop": Candidate("hand-written loop", hand_loop),
    "fetch": Candidate("baseline: requests only", partial(baseline, step="fetch"), loads=False),
    "copy": Candidate("baseline: COPY of prepared rows", partial(baseline, step="copy")),
    "upsert": Candidate(
        "baseline: COPY and INSERT … ON CONFLICT of prepared rows",
        partial(baseline, step="upsert"),
    ),
}
