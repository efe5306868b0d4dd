"""``python -m tests.simulation --loads 10000``: many seeds, from the command line."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter

from tests.simulation.world import START, check


def main() -> int:
    """Simulate loads; print each seed that fails, and a summary."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--loads", type=int, default=10_000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    began = time.monotonic()
    counts: Counter[str] = Counter()
    failed: list[int] = []
    for seed in range(arguments.first, arguments.first + arguments.loads):
        try:
            world = check(seed)
        except Exception:  # noqa: BLE001 - whatever it is, its seed is what matters
            traceback.print_exc()
            print(f"FAILED: repeat with --first {seed} --loads 1", file=sys.stderr)
            failed.append(seed)
            continue
        counts["requests"] += world.model.requests
        counts["runs"] += world.runs
        counts["killed"] += world.killed_runs
        counts["faults"] += world.served
        counts["seconds"] += round(world.clock.time - START)
    print(
        f"{arguments.loads} loads, {counts['runs']} runs ({counts['killed']} killed), "
        f"{counts['requests']} requests, {counts['faults']} faults, "
        f"{counts['seconds'] // 3600} simulated hours "
        f"in {time.monotonic() - began:.0f} s: {len(failed)} failed {failed[:20] or ''}"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
