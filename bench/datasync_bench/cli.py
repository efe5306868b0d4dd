"""`sh bench/run.sh`: the command line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from datasync_bench import contestants, growth, pacing, pages
from datasync_bench.comparison import FEW, compare
from datasync_bench.goals import judge
from datasync_bench.paths import BENCH, WORK
from datasync_bench.picture import draw
from datasync_bench.processes import ProgramError
from datasync_bench.report import markdown
from datasync_bench.stage import postgres_version

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = (100_000, 1_000_000, 3_000_000)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(
        prog="bench/run.sh",
        description=(
            "Measures our lanes beside their peers, on the sandbox's API and PostgreSQL. "
            "Without --growth, --paced, --real or --again it compares only."
        ),
    )
    options.add_argument("--events", type=int, default=200_000, help="events of the comparison")
    options.add_argument(
        "--repeat",
        type=int,
        default=3,
        help="runs of each contestant, and of each size in --growth",
    )
    options.add_argument(
        "--only",
        nargs="*",
        metavar="NAME",
        choices=sorted(contestants.BY_NAME),
        help=f"contestants of the comparison, of {', '.join(contestants.BY_NAME)}; "
        "no name leaves the comparison out",
    )
    options.add_argument(
        "--growth",
        nargs="*",
        type=int,
        metavar="EVENTS",
        help="load these sizes; by default 100,000, 1 and 3 million",
    )
    options.add_argument(
        "--growth-only",
        nargs="+",
        default=list(growth.SUBJECTS),
        choices=list(growth.SUBJECTS),
        help="what to load in --growth",
    )
    options.add_argument(
        "--paced",
        nargs="?",
        type=float,
        const=10.0,
        metavar="FACTOR",
        help="load under the limit, time scaled by this factor (10)",
    )
    options.add_argument(
        "--real",
        action="store_true",
        help="load under the limit in real time: about twelve minutes",
    )
    options.add_argument("--windows", type=int, default=6, help="windows to measure in --paced")
    options.add_argument("--again", action="store_true", help="load a second time")
    options.add_argument("--all", action="store_true", help="all of it but --real")
    options.add_argument("--smoke", action="store_true", help="all of it, tiny: does it work?")
    options.add_argument(
        "--keep", action="store_true", help="keep what --out has of parts not measured now"
    )
    options.add_argument(
        "--update-readme",
        action="store_true",
        help="write the results into the pages that quote them",
    )
    options.add_argument("--out", type=Path, default=BENCH / "out", help="where results go")
    return options


def settle(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in what one option says about others."""
    if args.all:
        args.growth = args.growth if args.growth is not None else []
        args.paced = args.paced or 10.0
        args.again = True
    if args.growth == []:
        args.growth = list(SIZES)
    if args.smoke:
        args.events, args.repeat, args.again = 2 * FEW, 1, True
        args.only = ["bulk", "record", "plain", "dlt-append", "hand", "upsert", "fetch"]
    if args.events <= FEW:
        message = f"--events has to be more than {FEW}, the size that start-up is taken from."
        raise ValueError(message)
    return args


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run what was asked for; what was measured before is kept if asked for."""
    results: dict[str, Any] = {}
    document = args.out / "results.json"
    if args.keep and document.exists():
        results = json.loads(document.read_text())
    results["machine"] = machine()
    load = results.setdefault("load", {})

    def begin(part: str, title: str) -> None:
        load[part] = round(os.getloadavg()[0], 1)
        print(f"{title} (load {load[part]}):", flush=True)

    chosen = [c for c in contestants.ALL if args.only is None or c.name in args.only]
    if chosen:
        begin("comparison", f"Side by side, {args.events:,} events")
        rows = compare(chosen, args.events, args.repeat, warm=not args.smoke)
        results["comparison"] = [row.document() for row in rows]
    if args.growth:
        begin("growth", "Growth")
        points = growth.grow(args.growth, args.growth_only, args.repeat)
        results["growth"] = [point.document() for point in points]
    for part, factor, windows in (("paced", args.paced, args.windows), ("real", args.real, 2)):
        if factor:
            begin(part, "Under the limit")
            names = list(pacing.subjects(factor))
            results[part] = [p.document() for p in pacing.pace(float(factor), windows, names)]
    if args.again:
        begin("again", "A second run")
        results["again"] = [run.document() for run in pacing.run_again(args.events)]
    return results


def machine() -> dict[str, Any]:
    """The class of this machine; nothing that tells which one it is."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "postgres": postgres_version(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, and say what was reached; returns the exit code."""
    options = parser()
    try:
        args = settle(options.parse_args(argv))
    except ValueError as error:
        options.error(str(error))
    WORK.mkdir(exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        results = measure(args)
    except ProgramError as error:
        print(error, file=sys.stderr)
        return 1
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = markdown(results)
    (args.out / "results.md").write_text(text)
    draw(results, args.out / "results.svg")
    print(f"\n{text}\nWritten: {args.out}")
    if args.update_readme:
        draw(results, BENCH / "results.svg")
        for page, complete in pages.write(results):
            print(f"{'Written' if complete else 'Left as it was, for want of a part'}: {page}")
    if not all(row["valid"] for row in results.get("comparison", [])):
        print("A row is void: it has not loaded every event once.", file=sys.stderr)
        return 1
    if args.smoke:
        print("Everything works. A run this small measures nothing.")
        return 0
    missed = [goal.title for goal in judge(results) if goal.reached is False]
    print(f"Not reached: {'; '.join(missed)}." if missed else "Everything measured was reached.")
    return 0
