"""Entry point of the bench; `run.sh` has installed what it needs."""

from __future__ import annotations

import sys

from datasync_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
