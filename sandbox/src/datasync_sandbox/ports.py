"""Ports of this machine: binding one, and naming the process that holds it."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

import click
import psutil

from datasync_sandbox import SandboxError
from datasync_sandbox.options import HOST


def bind(host: str, port: int) -> socket.socket:
    """Bind a port, or a free one for 0, without listening: connections to it are refused.

    Raises:
        OSError: If the port cannot be bound; see `bind_error`.
    """
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Connections that a stopped server has left behind do not matter.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def choose(port: int, purpose: str, option: str, *, required: bool) -> int:
    """Return the port to listen on; if it is another than the one asked for, a notice is printed.

    Args:
        port: Port on loopback; 0 picks a free one.
        purpose: What is to listen there, as in "API".
        option: Option that sets the port.
        required: Whether no other port will do.

    Returns:
        The port, or 0 where it is in use and any other will do.

    Raises:
        SandboxError: If a required port is in use, or the port is not allowed.
    """
    try:
        bind(HOST, port).close()
    except OSError as error:
        if required or error.errno != errno.EADDRINUSE:
            raise bind_error(error, HOST, port, purpose, option) from error
        notice = f"Port {port} is in use by {listener(port)}; the {purpose} takes a free port."
        click.echo(notice, err=True)
        return 0
    return port


def bind_error(error: OSError, host: str, port: int, purpose: str, option: str) -> SandboxError:
    """Return the error for a port that cannot be bound, for the arguments of `choose`."""
    if error.errno == errno.EADDRINUSE:
        return SandboxError(
            f"Port {port} on {host} is in use by {listener(port)}; "
            f"choose another one for the {purpose} with {option}."
        )
    return SandboxError(
        f"Cannot listen on port {port} of {host} for the {purpose}: {error.strerror}; "
        f"choose another one with {option}."
    )


def listener(port: int) -> str:
    """Describe the process that listens on a port, as far as this user may see it."""
    description = "another process"
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            is_listener = connection.status == psutil.CONN_LISTEN
            if is_listener and connection.laddr[1:] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                description = f"{process.name()} (pid {process.pid})"
                if "datasync_sandbox" in process.cmdline():
                    description = f"datasync-sandbox (pid {process.pid})"
                directory = process.cwd()
                if works_in(process.pid, Path(directory)):
                    return f"{description} of {directory}"
                return (
                    f"{description}, left over from the deleted directory {directory} "
                    f"(end it with: kill {process.pid})"
                )
    return description


def works_in(pid: int, directory: Path) -> bool:
    """Return whether a directory is the working directory of a process.

    A copy of the directory is another one; the same directory under a new name is not.
    """
    with suppress(psutil.Error, OSError):
        link = Path(f"/proc/{pid}/cwd")
        # Followed, the link leads to the directory itself, also after it was moved or deleted.
        there = link if link.is_symlink() else Path(psutil.Process(pid).cwd())
        return os.path.samestat(there.stat(), directory.stat())
    return False
