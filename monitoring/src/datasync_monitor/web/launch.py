"""Starts Streamlit with everything off that would talk to the outside."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from datasync_monitor.database import Settings

APP = Path(__file__).with_name("app.py")

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


def command(
    settings: Settings, *, host: str, port: int, every: float, patience: float
) -> list[str]:
    """Build the command line; the password stays in the environment, away from `ps`."""
    options = {
        **_OPTIONS,
        "server.address": host,
        "server.port": str(port),
        "browser.serverAddress": host,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    arguments = ["--schema", settings.schema, "--every", str(every), "--patience", str(patience)]
    return [sys.executable, "-m", "streamlit", "run", str(APP), *flags, "--", *arguments]


def serve(settings: Settings, *, host: str, port: int, every: float, patience: float) -> NoReturn:
    """Become Streamlit: this process is replaced, so that no signal needs forwarding.

    Raises:
        ModuleNotFoundError: Streamlit is not installed.
        OSError: nobody can listen there.
    """
    if importlib.util.find_spec("streamlit") is None:
        message = "No module named 'streamlit'"
        raise ModuleNotFoundError(message, name="streamlit")
    _try_address(host, port)
    print(f"Dashboard of {settings.place}: http://{host}:{port} (Ctrl-C stops it)", flush=True)  # noqa: T201
    started = command(settings, host=host, port=port, every=every, patience=patience)
    os.execv(started[0], started)  # noqa: S606 - our own program, without a shell


def _try_address(host: str, port: int) -> None:
    """Fail here, in one sentence, where Streamlit would fail later: on a port that is taken.

    Raises:
        OSError: nobody can listen there.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as probe:
        # As a server does, which starts again while connections to the one before it are dying.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
