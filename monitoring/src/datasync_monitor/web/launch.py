"""Starts Streamlit, without telemetry and without requests to other hosts."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from datetime import timedelta

    from datasync_monitor.database import DatabaseSettings

_OPTIONS = {
    "server.headless": "true",  # or it opens a browser and asks for an e-mail address
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": "false",
    "browser.gatherUsageStats": "false",
    "runner.magicEnabled": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "theme.base": "light",
    "theme.primaryColor": "#2563eb",
}


def serve(
    settings: DatabaseSettings,
    *,
    host: str,
    port: int,
    interval: timedelta,
    stall_timeout: timedelta,
) -> NoReturn:
    """Replace this process by Streamlit, so that signals reach it directly.

    The password stays in the environment.

    Raises:
        ModuleNotFoundError: Streamlit is not installed.
        OSError: the address cannot be used.
    """
    if importlib.util.find_spec("streamlit") is None:
        message = "No module named 'streamlit'"
        raise ModuleNotFoundError(message, name="streamlit")
    # Fail on a port that is taken with a shorter message than Streamlit's.
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as probe:
        # As servers do: connections to the previous one may still be closing.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    print(f"Dashboard of {settings.location}: http://{host}:{port}", flush=True)  # noqa: T201
    options = {
        **_OPTIONS,
        "server.address": host,
        "server.port": port,
        # Or a request with this address as its origin makes the server look up its public address.
        "browser.serverAddress": host,
    }
    command = [
        *(sys.executable, "-m", "streamlit", "run", str(Path(__file__).with_name("app.py"))),
        *(f"--{name}={value}" for name, value in options.items()),
        "--",
        *(settings.schema, str(interval.total_seconds()), str(stall_timeout.total_seconds())),
    ]
    os.execv(command[0], command)  # noqa: S606 - this interpreter, without a shell
