"""What is measured: our lanes, their peers, and the floors."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datasync_bench import paths, processes
from datasync_bench.paths import PEERS, ROOT, WORK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datasync_bench.processes import Usage
    from datasync_bench.stage import Stage

_serial = itertools.count(1)

Words = list[str | Path]
"""A program and its arguments."""

OURS, PEER, FLOOR, ALONE = "ours", "peer", "floor", "alone"

# The peers need no less than ours: the stock loader gets the settings that make it fast, which are
# also those of the project's meltano.yml. With its own defaults it takes twice as long.
STOCK: dict[str, object] = {
    "default_target_schema": "public",
    "use_copy": True,
    "add_record_metadata": False,
    "activate_version": False,
    "validate_records": False,
}


@dataclass(frozen=True)
class Contestant:
    """One row of the table.

    Attributes:
        name: For the command line.
        title: For people.
        kind: `ours`, `peer`, `floor`, or `alone` for a tap without a loader.
        run: Does one load of the stage's feed into its empty database.
        loads: Whether there are rows to count afterwards.
    """

    name: str
    title: str
    kind: str
    run: Callable[[Stage], Usage]
    loads: bool = True


def scratch(name: str) -> Path:
    """Make an empty directory for one run."""
    directory = WORK / "runs" / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)
    return directory


def batch_config(directory: Path) -> dict[str, object]:
    """The tap's setting that turns the bulk lane on."""
    return {
        "encoding": {"format": "jsonl", "compression": "none"},
        "storage": {"root": (directory / "bulk").as_uri()},
    }


def tap_config(stage: Stage) -> dict[str, object]:
    """Settings of a tap, ours or the plain one."""
    env = stage.environment()
    return {"api_url": env["API_BASE_URL"], "api_key": env["API_KEY"], "page_size": 5000}


def target_config(stage: Stage) -> dict[str, object]:
    """Settings of a loader, ours or the stock one."""
    env = stage.environment()
    return {
        "host": env["DB_HOST"],
        "port": int(env["DB_PORT"]),
        "user": env["DB_USER"],
        "password": env["DB_PASSWORD"],
        "database": env["DB_NAME"],
    }


def write(path: Path, document: Mapping[str, object]) -> Path:
    """Write a JSON file."""
    path.write_text(json.dumps(document, indent=1))
    return path


def piped(stage: Stage, *, bulk: bool, state: Path | None = None, alone: bool = False) -> Usage:
    """`tap-datasync | target-postgres-checkpoint`, without Meltano.

    Args:
        stage: Where from and where to.
        bulk: The bulk lane instead of the record lane.
        state: A state to go on from.
        alone: The tap only, its output thrown away.
    """
    directory = scratch("piped")
    config = tap_config(stage)
    if bulk:
        config["batch_config"] = batch_config(directory)
    tap: Words = [paths.TAP, "--config", write(directory / "tap.json", config)]
    if state is not None:
        tap += ["--state", state]
    target: Words = [
        paths.TARGET,
        "--config",
        write(directory / "target.json", target_config(stage)),
    ]
    usage = processes.run(
        [tap] if alone else [tap, target],
        env=stage.environment(),
        cwd=directory,
        log=directory / "log",
        discard=alone,
    )
    shutil.rmtree(directory / "bulk", ignore_errors=True)
    return usage


def meltano(stage: Stage, *, bulk: bool) -> Usage:
    """`meltano run tap-datasync target-postgres`, with this checkout's own meltano.yml.

    Its state and its history go into a database of the bench's, so that a load of the same
    checkout is left alone.
    """
    directory = scratch("meltano")
    env = stage.environment()
    env["MELTANO_DATABASE_URI"] = f"sqlite:///{WORK / 'meltano.db'}"
    if bulk:
        env["TAP_DATASYNC_BATCH_CONFIG"] = json.dumps(batch_config(directory))
    command: Words = [
        *(paths.MELTANO, "--log-format=json", "--environment=dev", "run", "--no-install"),
        *("--force", f"--state-id-suffix=bench-{next(_serial)}-{directory.stat().st_mtime_ns}"),
        *("tap-datasync", "target-postgres"),
    ]
    return processes.run([command], env=env, cwd=ROOT, log=directory / "log")


def plain(stage: Stage, *, alone: bool = False) -> Usage:
    """The plain SDK tap piped into the stock loader."""
    directory = scratch("plain")
    tap: Words = [
        paths.SINGER_PYTHON,
        PEERS / "plain_tap.py",
        "--config",
        write(directory / "tap.json", tap_config(stage)),
    ]
    settings = {**target_config(stage), **STOCK}
    target: Words = [paths.STOCK_TARGET, "--config", write(directory / "target.json", settings)]
    return processes.run(
        [tap] if alone else [tap, target],
        env=stage.environment(),
        cwd=directory,
        log=directory / "log",
        discard=alone,
    )


def plain_meltano(stage: Stage) -> Usage:
    """The plain SDK tap and the stock loader through Meltano, in a project of their own."""
    project = WORK / "plain-project"
    project.mkdir(parents=True, exist_ok=True)
    for name, words in (
        ("tap-plain", (paths.SINGER_PYTHON, PEERS / "plain_tap.py")),
        ("target-stock", (paths.STOCK_TARGET,)),
    ):
        script = project / name
        script.write_text(f'#!/bin/sh\nexec {" ".join(map(str, words))} "$@"\n')
        script.chmod(0o755)
    capabilities = ["catalog", "discover", "state", "about"]
    stock = {**target_config(stage), **STOCK}
    write(
        # JSON is YAML.
        project / "meltano.yml",
        {
            "project_id": "bench-plain",
            "default_environment": "dev",
            "send_anonymous_usage_stats": False,
            "cli": {"disable_version_check": True},
            "environments": [{"name": "dev"}],
            "plugins": {
                "extractors": [
                    {
                        "name": "tap-plain",
                        "namespace": "tap_plain",
                        "executable": "./tap-plain",
                        "capabilities": capabilities,
                        "settings": [
                            {"name": name, "kind": "integer" if name == "page_size" else "string"}
                            for name in tap_config(stage)
                        ],
                        "config": tap_config(stage),
                    }
                ],
                "loaders": [
                    {
                        "name": "target-stock",
                        "namespace": "target_stock",
                        "executable": "./target-stock",
                        "settings": [{"name": name} for name in stock],
                        "config": stock,
                    }
                ],
            },
        },
    )
    command: Words = [
        *(paths.MELTANO, "--log-format=json", "--environment=dev", "run", "--no-install"),
        *("--force", f"--state-id-suffix=bench-{next(_serial)}-{project.stat().st_mtime_ns}"),
        *("tap-plain", "target-stock"),
    ]
    directory = scratch("plain-meltano")
    return processes.run([command], env=stage.environment(), cwd=project, log=directory / "log")


def dlt(stage: Stage, disposition: str, file_format: str) -> Usage:
    """Run dlt with its REST source and its PostgreSQL destination."""
    directory = scratch("dlt")
    env = stage.environment() | {
        "BENCH_DLT_DIR": str(directory / "pipelines"),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }
    command: Words = [paths.DLT_PYTHON, PEERS / "dlt_pipeline.py", disposition, file_format]
    usage = processes.run([command], env=env, cwd=directory, log=directory / "log")
    shutil.rmtree(directory / "pipelines", ignore_errors=True)
    return usage


def hand(stage: Stage, pause: float = 0.0) -> Usage:
    """The hand-written loop."""
    command: Words = [paths.PYTHON, PEERS / "hand_loop.py", str(pause)]
    directory = scratch("hand")
    return processes.run([command], env=stage.environment(), cwd=directory, log=directory / "log")


def ready_rows(stage: Stage) -> Path:
    """Write the feed as COPY text, once."""
    path = WORK / f"ready-{stage.api.events}.bin"
    if not path.exists():
        part = path.with_suffix(".part")
        floor(stage, "prepare", part)
        part.rename(path)
    return path


def floor(stage: Stage, way: str, path: Path | None = None) -> Usage:
    """One of the floors."""
    words = [] if path is None else [path]
    command: Words = [paths.PYTHON, PEERS / "floors.py", way, *words]
    directory = scratch("floor")
    return processes.run([command], env=stage.environment(), cwd=directory, log=directory / "log")


def ready_floor(stage: Stage, way: str) -> Usage:
    """One of the floors that load ready rows; making them is not measured."""
    return floor(stage, way, ready_rows(stage))


ALL = (
    Contestant("bulk", "bulk lane, piped", OURS, lambda s: piped(s, bulk=True)),
    Contestant("bulk-meltano", "bulk lane, Meltano", OURS, lambda s: meltano(s, bulk=True)),
    Contestant("record", "record lane, piped", OURS, lambda s: piped(s, bulk=False)),
    Contestant("record-meltano", "record lane, Meltano", OURS, lambda s: meltano(s, bulk=False)),
    Contestant("plain", "plain SDK tap, stock target, piped", PEER, plain),
    Contestant("plain-meltano", "plain SDK tap, stock target, Meltano", PEER, plain_meltano),
    Contestant("dlt-append", "dlt, append", PEER, lambda s: dlt(s, "append", "insert_values")),
    Contestant("dlt-append-csv", "dlt, append, csv", PEER, lambda s: dlt(s, "append", "csv")),
    Contestant("dlt-merge", "dlt, merge", PEER, lambda s: dlt(s, "merge", "insert_values")),
    Contestant("hand", "hand-written loop", PEER, hand),
    Contestant("copy", "floor: COPY of ready rows", FLOOR, lambda s: ready_floor(s, "copy")),
    Contestant(
        "upsert",
        "floor: COPY and ON CONFLICT",
        FLOOR,
        lambda s: ready_floor(s, "upsert"),
    ),
    Contestant(
        "upsert-once",
        "floor: the same, one transaction",
        FLOOR,
        lambda s: ready_floor(s, "upsert-once"),
    ),
    Contestant(
        "upsert-durable",
        "floor: the same, each page on the disk",
        FLOOR,
        lambda s: ready_floor(s, "upsert-durable"),
    ),
    Contestant("fetch", "floor: fetch only", FLOOR, lambda s: floor(s, "fetch"), loads=False),
    Contestant(
        "tap-bulk",
        "our tap alone, files",
        ALONE,
        lambda s: piped(s, bulk=True, alone=True),
        loads=False,
    ),
    Contestant(
        "tap-record",
        "our tap alone, records",
        ALONE,
        lambda s: piped(s, bulk=False, alone=True),
        loads=False,
    ),
    Contestant(
        "tap-plain",
        "plain SDK tap alone",
        ALONE,
        lambda s: plain(s, alone=True),
        loads=False,
    ),
)
BY_NAME = {contestant.name: contestant for contestant in ALL}
