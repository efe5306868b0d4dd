"""``python -m tests.storm``: at least 200 kills over a load of 200,000 events."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.storm.storm import storm


def main() -> int:
    """Run a storm and tell what it came to; exit code 1 when the table is not the feed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--page-size", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bulk", action="store_true", help="in the bulk lane")
    chosen = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="storm-"))
    print(f"data and logs in {directory}", flush=True)
    report = storm(
        directory,
        kills=chosen.kills,
        events=chosen.events,
        page_size=chosen.page_size,
        seed=chosen.seed,
        arguments=["--bulk"] if chosen.bulk else [],
    )
    print(report)
    return bool(report.differences)


if __name__ == "__main__":
    sys.exit(main())
