"""The sandbox's Python API: all that other packages, tests and simulations import from it."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datasync_sandbox import SandboxError
from datasync_sandbox.api.faults import FAULTS, Fault, Faults
from datasync_sandbox.api.model import ApiModel
from datasync_sandbox.api.responses import NoReply, Refused, Reset, Response
from datasync_sandbox.api.server import ApiServer
from datasync_sandbox.data.feed import ExpectedRow, Feed
from datasync_sandbox.options import BASE, ApiOptions, FeedOptions
from datasync_sandbox.postgres.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

__all__ = [
    "BASE",
    "FAULTS",
    "ApiModel",
    "ApiOptions",
    "ApiServer",
    "Cluster",
    "ExpectedRow",
    "Fault",
    "Faults",
    "Feed",
    "FeedOptions",
    "NoReply",
    "Refused",
    "Reset",
    "Response",
    "SandboxError",
    "running_api",
    "temporary_postgres",
]

_TIMEOUT_SECONDS = 30.0


@contextmanager
def running_api(
    options: ApiOptions | None = None,
    *,
    clock: Callable[[], float] | None = None,
    **changes: Any,
) -> Iterator[ApiServer]:
    """Serve the API over real HTTP, in a thread.

    Args:
        options: Options; by default all defaults, on a free port.
        clock: Its clock; see `ApiServer`.
        **changes: Single options by name, as in ``running_api(events=500, fault=["503@2"])``.

    Yields:
        The running API; its ``model.feed`` has the expected rows.

    Raises:
        SandboxError: If its port is in use.
        ValueError: If an option is wrong.
    """
    changes["fault"] = tuple(map(str, changes.get("fault", options.fault if options else ())))
    options = replace(options or ApiOptions(port=0), **changes)
    server = ApiServer(ApiModel(options), options.port, clock=clock)
    loop = asyncio.new_event_loop()

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(_TIMEOUT_SECONDS)

    thread = threading.Thread(target=loop.run_forever, name="datasync-sandbox", daemon=True)
    thread.start()
    try:
        run(server.start())
        try:
            yield server
        finally:
            run(server.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def temporary_postgres(directory: Path, *, durable: bool = False) -> Iterator[Cluster]:
    """Run an empty PostgreSQL on a free port.

    Args:
        directory: Where the data goes, such as pytest's ``tmp_path``.
        durable: Whether to keep ``fsync`` on; off is safe unless the machine itself fails.

    Yields:
        The running server, with ``host``, ``port``, ``user``, ``password``, ``database``, ``url``,
        ``pid()``, ``start()``, ``stop()`` and ``sql()``.
    """
    cluster = Cluster(directory / "pg", durable=durable)
    try:
        cluster.start(port=0)
        yield cluster
    finally:
        cluster.remove()
