"""`sh bench/run.sh`: the command line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
from datasync_sandbox.testing import SandboxError

from datasync_bench import contestants, growth, pacing, pages
from datasync_bench.comparison import FEW, compare
from datasync_bench.goals import judge
from datasync_bench.paths import BENCH, WORK
from datasync_bench.picture import draw
from datasync_bench.processes import ProgramError
from datasync_bench.report import markdown
from datasync_bench.stage import postgres_version
from datasync_bench.validity import is_valid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SIZES = (100_000, 1_000_000, 3_000_000)

_FAILURES = (
    *(RuntimeError, OSError, subprocess.SubprocessError, psycopg.Error),
    *(SandboxError, SandboxError),
)


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
    options.add_argument(
        "--smoke",
        action="store_true",
        help="does it work? a tiny comparison, growth and second run; nothing under the limit",
    )
    options.add_argument(
        "--keep", action="store_true", help="keep what --out has of parts not measured now"
    )
    options.add_argument(
        "--update-readme",
        action="store_true",
        help="write the results into the pages that quote them: bench/README.md, and, with --real "
        "too, README.md and docs/comparison.md",
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
        if args.update_readme:
            message = "--smoke measures nothing that a page could quote: leave --update-readme out."
            raise ValueError(message)
        args.events, args.repeat, args.again = 2 * FEW, 1, True
        args.only = ["bulk", "record", "plain", "dlt-append", "hand", "upsert", "fetch"]
        args.growth, args.growth_only = [2 * FEW], ["bulk", "upsert"]
    if min([args.events, *(args.growth or [])]) <= FEW:
        message = f"No size may be {FEW} or less, the one that start-up is taken from."
        raise ValueError(message)
    return args


def asked(args: argparse.Namespace) -> Iterator[tuple[str, str, Callable[[], Sequence[Any]]]]:
    """The parts that were asked for: name, title, and what measures it."""
    chosen = [c for c in contestants.ALL if args.only is None or c.name in args.only]
    if chosen:
        run = partial(compare, chosen, args.events, args.repeat, warm=not args.smoke)
        yield "comparison", f"Side by side, {args.events:,} events", run
    if args.growth:
        yield "growth", "Growth", partial(growth.grow, args.growth, args.growth_only, args.repeat)
    for part, factor, windows in (("paced", args.paced, args.windows), ("real", args.real, 2)):
        if factor:
            names = list(pacing.subjects(factor))
            yield part, "Under the limit", partial(pacing.pace, float(factor), windows, names)
    if args.again:
        yield "again", "A second run", partial(pacing.run_again, args.events)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run what was asked for; what was measured before is kept if asked for.

    Each part is written as soon as it is measured, so that a later one that fails costs no hours.
    """
    results: dict[str, Any] = {}
    document = args.out / "results.json"
    if args.keep and document.exists():
        results = json.loads(document.read_text())
    results["machine"] = machine()
    # Once: what is measured is a load itself.
    load = round(os.getloadavg()[0], 1)
    print(f"Load of the machine: {load}.", flush=True)
    for part, title, run in asked(args):
        print(f"{title}:", flush=True)
        results[part] = [found.document() for found in run()]
        results.setdefault("load", {})[part] = load
        document.write_text(json.dumps(results, indent=1) + "\n")
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
    except _FAILURES as error:
        said = " ".join(str(error).split())
        print(f"The bench stopped: {type(error).__name__}: {said}", file=sys.stderr)
        return 1
    text = markdown(results)
    (args.out / "results.md").write_text(text)
    draw(results, args.out / "results.svg")
    print(f"\n{text}\nWritten: {args.out}")
    if args.update_readme:
        for page, complete in pages.write(results):
            if complete and page.parent == BENCH:
                draw(results, BENCH / "results.svg")
            print(f"{'Written' if complete else 'Left as it was, for want of a part'}: {page}")
    if not is_valid(results):
        print("Something is void: it has not loaded every event once.", file=sys.stderr)
        return 1
    if args.smoke:
        print("It works, as far as it was tried. A run this small measures nothing.")
        return 0
    missed = [goal.title for goal in judge(results) if goal.reached is False]
    print(f"Not reached: {'; '.join(missed)}." if missed else "Everything measured was reached.")
    return 0
