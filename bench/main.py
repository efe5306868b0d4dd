"""Entry point of the benchmark; ``run.sh`` installs what it needs."""

from datasync_bench.cli import main

main()
