"""Programs that a test starts, and that listen on a port of loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server_process(
    command: Sequence[str], port: int, *, env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run a program while it is needed, from the time it accepts connections."""
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", port)) != 0:
                assert process.poll() is None, f"{command[0]} has ended"
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()
