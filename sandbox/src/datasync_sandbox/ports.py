"""Ports of this machine: taking one, and saying why it cannot be had."""

from __future__ import annotations

import errno
import socket


def bind(host: str, port: int) -> socket.socket:
    """Take a port without listening on it: to clients, nobody is there yet.

    Args:
        host: IPv4 address.
        port: Port; 0 picks a free one.

    Returns:
        The socket.

    Raises:
        OSError: If the port cannot be had; see `refusal`.
    """
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # What connections of the last server have left behind is in nobody's way.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def refusal(error: OSError, host: str, port: int, wanted_for: str) -> str:
    """Tell people in one sentence why a port cannot be had.

    Args:
        error: What `bind`, or listening, has met.
        host: IPv4 address.
        port: Port.
        wanted_for: What was to listen there, as in "the API".
    """
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is taken by another program; "
            f"choose another one for {wanted_for}."
        )
    return f"Cannot listen on port {port} of {host} for {wanted_for}: {error.strerror}."
