"""Serve the sandbox's API to the other containers of a Compose network.

The sandbox listens on loopback only, so that a laptop shows nothing to its
neighbours. In a container, loopback is the container's own: here it listens on
every address of it, and `docker-compose.yml` publishes none.
"""

from __future__ import annotations

from datasync_sandbox import server
from datasync_sandbox.cli import main

if __name__ == "__main__":
    server.HOST = "0.0.0.0"  # type: ignore[attr-defined]  # noqa: S104 - see above
    main()
