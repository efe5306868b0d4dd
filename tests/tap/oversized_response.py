"""Fetches an oversized response twice, in its own process; prints the outcomes and peak memory.

Usage: python oversized_response.py STATUS plain|gzip
"""

from __future__ import annotations

import logging
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import singer_sdk  # noqa: F401 - as much is imported as in a real run
from tap_datasync.errors import TransportError
from tap_datasync.transport import HttpTransport
from tap_helpers import raw_server

if TYPE_CHECKING:
    import socket


def main(status: str, encoding: str) -> None:
    head = f"HTTP/1.1 {status} x\r\nLocation: /other\r\nContent-Encoding: {encoding}\r\n\r\n"

    def respond(connection: socket.socket, _target: str) -> None:
        connection.sendall(head.encode())
        if encoding == "gzip":
            gzip = zlib.compressobj(wbits=31)
            for _ in range(2000):
                connection.sendall(gzip.compress(bytes(2**20)))
        while True:
            connection.sendall(bytes(2**16))

    kept = None
    with raw_server(respond) as url:
        transport = HttpTransport(url, "key", timeout=60, logger=logging.getLogger())
        for _ in range(2):
            try:
                response = transport.get(None, 5000)
                print(response.status, len(response.body))
            except TransportError as error:  # noqa: PERF203 - twice
                kept = error
                print(kept.cause, kept)
    # Unlike ru_maxrss, this is not inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) // 1024)


main(*sys.argv[1:])
