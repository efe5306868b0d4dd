"""Reads lines from stdin, in a thread, so that the tap does not wait while rows are written."""

from __future__ import annotations

import fcntl
import queue
import threading
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

import msgspec

from target_config.errors import InvalidDataError, TargetError, TruncatedInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 256 * 1024
MAX_BLOCKS = 64
"""Blocks read ahead: 16 MiB at most, several pages of a pipe's smaller blocks."""

PIPE_BYTES = 1024 * 1024
"""Capacity of the pipe from the tap: Linux permits it to everybody, and has 64 KiB by default."""

MAX_LINE_BYTES = 64 * 1024 * 1024


def read_lines(file: IO[Any]) -> Iterator[bytes]:
    """Read all lines, without their newline and without empty lines.

    A last line without a newline counts if it is complete JSON. If it is not, the tap was killed
    while it wrote the line.

    Args:
        file: A file, opened as text or binary. It is read without its buffers: the thread may still
            be reading when the process exits, and must not hold a lock of theirs.

    Raises:
        TruncatedInputError: If the input ends within a message.
        InvalidDataError: If a line is longer than `MAX_LINE_BYTES`.
        TargetError: If the file cannot be read.
    """
    binary = getattr(file, "buffer", file)
    raw = getattr(binary, "raw", binary)
    _enlarge_pipe(raw)
    blocks: queue.Queue[bytes | OSError] = queue.Queue(MAX_BLOCKS)
    threading.Thread(target=_read_blocks, args=(raw, blocks), daemon=True).start()
    rest: list[bytes] = []
    while block := blocks.get():
        if isinstance(block, OSError):
            message = f"The input cannot be read: {block.strerror or block}."
            raise TargetError(message) from block
        head, newline, tail = block.rpartition(b"\n")
        if newline:
            yield from filter(None, b"".join((*rest, head)).split(b"\n"))
            rest = []
        rest.append(tail)
        if sum(map(len, rest)) > MAX_LINE_BYTES:
            message = f"A line of the input is longer than {MAX_LINE_BYTES >> 20} MiB."
            raise InvalidDataError(message)
    if last := b"".join(rest).strip():
        try:
            msgspec.json.decode(last)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            message = (
                "The input ends within a message: the tap was interrupted. Everything up to the "
                "last STATE is committed, and the next run resumes from there."
            )
            raise TruncatedInputError(message) from error
        yield last


def _enlarge_pipe(raw: IO[bytes]) -> None:
    """Let the tap write on while the thread waits for the interpreter, if the input is a pipe."""
    if command := getattr(fcntl, "F_SETPIPE_SZ", None):
        # An OSError: it is no pipe, or the user's pipes are too large already.
        with suppress(OSError):
            fcntl.fcntl(raw.fileno(), command, PIPE_BYTES)


def _read_blocks(raw: IO[bytes], blocks: queue.Queue[bytes | OSError]) -> None:
    try:
        while block := raw.read(BLOCK_BYTES):
            blocks.put(block)
        blocks.put(b"")
    except OSError as error:
        blocks.put(error)
