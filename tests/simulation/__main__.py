"""``python -m tests.simulation --loads 10000``: many seeds, from the command line."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING

from tests.simulation import feeds, service

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.harness import World

WORLDS: dict[str, Callable[[int], World]] = {
    "service": service.check,
    "feeds": feeds.check,
}


def main() -> int:
    """Simulate loads, half in each world; print each seed that fails, and a summary."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--loads", type=int, default=10_000, help="number of loads")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--world", choices=WORLDS, help="one of the two worlds only")
    arguments = parser.parse_args()
    worlds = [arguments.world] if arguments.world else list(WORLDS)
    began = time.monotonic()
    counts: Counter[str] = Counter()
    failed: list[str] = []
    for number in range(arguments.loads):
        name, seed = worlds[number % len(worlds)], arguments.first + number // len(worlds)
        try:
            world = WORLDS[name](seed)
        except Exception:  # noqa: BLE001 - whatever it is, its seed is what matters
            traceback.print_exc()
            repeat = f"--world {name} --first {seed} --loads 1"
            print(f"FAILED: repeat with {repeat}", file=sys.stderr)
            failed.append(f"{name} {seed}")
            continue
        counts["requests"] += world.requests
        counts["runs"] += world.runs
        counts["killed"] += world.killed_runs
    print(
        f"{arguments.loads} loads, {counts['runs']} runs ({counts['killed']} killed), "
        f"{counts['requests']} requests in {time.monotonic() - began:.0f} s: "
        f"{len(failed)} failed {failed[:20] or ''}"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
