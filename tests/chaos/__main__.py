"""``python -m tests.chaos``: 200 kills during a load of 200,000 events, in ten minutes."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.chaos import ChaosTest


def main() -> int:
    """Kill processes of a load at random; exit code 1 if the table differs from the feed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=main.__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--page-size", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    test = ChaosTest(directory, **vars(options))
    print(f"Data and logs in {directory}", flush=True)
    report = test.run()
    print(report)
    return int(bool(report.differences))


if __name__ == "__main__":
    sys.exit(main())
