"""What is measured: this project, its alternatives, and baselines that do less work."""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from datasync_bench import processes
from datasync_bench.environment import BENCH, BIN, ROOT, WORK, scratch

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

_serial = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row of the comparison.

    Attributes:
        name: Name on the command line.
        title: Name in the report.
        run: Loads the feed of an environment into its empty database.
        loads: Whether the table is filled.
        is_baseline: Whether it leaves out work that every load has to do.
    """

    name: str
    title: str
    run: Callable[[Environment], Usage]
    loads: bool = True
    is_baseline: bool = False


def tap_config(environment: Environment, page_size: int = 5000) -> dict[str, object]:
    """Return the settings of a tap."""
    variables = environment.variables()
    return {
        "api_url": variables["API_BASE_URL"],
        "api_key": variables["API_KEY"],
        "page_size": page_size,
    }


def target_config(environment: Environment) -> dict[str, object]:
    """Return the settings of a target."""
    variables = environment.variables()
    names = {name: f"DB_{name.upper()}" for name in ("host", "user", "password")}
    config: dict[str, object] = {key: variables[name] for key, name in names.items()}
    return {**config, "port": int(variables["DB_PORT"]), "database": variables["DB_NAME"]}


def _write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def pipe(environment: Environment, state: str | None = None) -> Usage:
    """Run ``tap-datasync | target-postgres-checkpoint``.

    Args:
        environment: API and database.
        state: A Singer state, as JSON, to continue from.
    """
    directory = scratch("pipe")
    config = _write(directory / "tap.json", tap_config(environment))
    tap: Command = [BIN / "tap-datasync", "--config", config]
    if state is not None:
        (directory / "state.json").write_text(state)
        tap += ["--state", directory / "state.json"]
    config = _write(directory / "target.json", target_config(environment))
    target: Command = [BIN / "target-postgres-checkpoint", "--config", config]
    return processes.run([tap, target], env=environment.variables(), directory=directory)


def meltano(environment: Environment) -> Usage:
    """Run ``meltano run tap-datasync target-postgres`` with the meltano.yml of this checkout."""
    directory = scratch("meltano")
    # A separate database, so that the state of a real load in this checkout is not changed.
    env = {
        **environment.variables(),
        "MELTANO_DATABASE_URI": f"sqlite:///{WORK / 'meltano.db'}",
        "MELTANO_PROJECT_ROOT": str(ROOT),
    }
    suffix = f"--state-id-suffix=bench-{next(_serial)}-{time.time_ns()}"
    command: Command = [
        *(BIN / "meltano", "--log-format=json", "--environment=dev", "run", "--no-install"),
        *("--force", suffix, "tap-datasync", "target-postgres"),
    ]
    return processes.run([command], env=env, directory=directory)


def sdk_tap(environment: Environment) -> Usage:
    """Run a tap made from the SDK's template, piped into the stock target."""
    directory = scratch("sdk-tap")
    config = _write(directory / "tap.json", tap_config(environment))
    tap: Command = [PYTHON, PEERS / "sdk_tap.py", "--config", config]
    config = _write(directory / "target.json", {**target_config(environment), **STOCK_SETTINGS})
    target: Command = [BIN / "target-postgres", "--config", config]
    return processes.run([tap, target], env=environment.variables(), directory=directory)


def dlt(environment: Environment, disposition: str) -> Usage:
    """Run dlt with its REST source and its PostgreSQL destination."""
    directory = scratch("dlt")
    env = environment.variables() | {
        "BENCH_DLT_DIR": str(directory / "pipelines"),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }
    command: Command = [PYTHON, PEERS / "dlt_pipeline.py", disposition, "insert_values"]
    return processes.run([command], env=env, directory=directory)


def hand_loop(environment: Environment, pause_seconds: float = 0.0) -> Usage:
    """Run a hand-written loop: request, multi-row INSERT, pause."""
    command: Command = [PYTHON, PEERS / "hand_loop.py", str(pause_seconds)]
    return processes.run([command], env=environment.variables(), directory=scratch("hand-loop"))


def baseline(environment: Environment, step: str) -> Usage:
    """Run a baseline; COPY text is prepared once per feed and not measured."""
    command: Command = [PYTHON, PEERS / "baselines.py", step]
    env = environment.variables()
    if step != "fetch":
        path = WORK / f"rows-{environment.events}.copy"
        if not path.exists():
            part = path.with_suffix(".part")
            prepare: Command = [PYTHON, PEERS / "baselines.py", "prepare", part]
            processes.run([prepare], env=env, directory=scratch("prepare"))
            part.rename(path)
        command.append(path)
    return processes.run([command], env=env, directory=scratch("baseline"))


CANDIDATES = {
    candidate.name: candidate
    for candidate in (
        Candidate("pipe", "tap-datasync \\| target-postgres-checkpoint", pipe),
        Candidate("meltano", "meltano run tap-datasync target-postgres", meltano),
        Candidate("sdk-tap", "plain SDK tap \\| stock target-postgres", sdk_tap),
        Candidate("dlt-append", "dlt, append", partial(dlt, disposition="append")),
        Candidate("dlt-merge", "dlt, merge", partial(dlt, disposition="merge")),
        Candidate("hand-loop", "hand-written loop", hand_loop),
        Candidate(
            "fetch",
            "baseline: requests only",
            partial(baseline, step="fetch"),
            loads=False,
            is_baseline=True,
        ),
        Candidate(
            "copy",
            "baseline: COPY of prepared rows",
            partial(baseline, step="copy"),
            is_baseline=True,
        ),
        Candidate(
            "upsert",
            "baseline: COPY and INSERT … ON CONFLICT of prepared rows",
            partial(baseline, step="upsert"),
            is_baseline=True,
        ),
    )
}
