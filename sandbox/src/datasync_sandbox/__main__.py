"""``python -m datasync_sandbox`` is ``datasync-sandbox``."""

from __future__ import annotations

from datasync_sandbox.cli import main

if __name__ == "__main__":
    main(prog_name="datasync-sandbox")
