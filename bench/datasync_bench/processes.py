"""Run a command, or several connected by pipes, and measure time, CPU and memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MEBIBYTE = 2**20
# `getrusage(2)`: kibibytes on Linux, bytes on macOS.
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024

Command = list[str | Path]


class CommandError(Exception):
    """A measured command failed; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run took.

    Attributes:
        started_at: Unix time in seconds.
        seconds: From the start of the first process to the end of the last.
        cpu_seconds: User and system time of all processes, their children included.
        peak_mib: Largest resident size of a single process, by command, in MiB. The kernel counts
            from the start of a process, which is a copy of this one: about 40 MiB at least.
        output: Standard output of the last command.
    """

    started_at: float
    seconds: float
    cpu_seconds: float
    peak_mib: dict[str, float]
    output: str


def run(commands: Mapping[str, Command], *, env: Mapping[str, str], directory: Path) -> Usage:
    """Run commands to the end, the output of each piped into the next.

    Args:
        commands: Programs with their arguments, by the name of their part in the results.
        env: The whole environment of every command.
        directory: Working directory; ``log`` in it receives standard error.

    Raises:
        CommandError: A command ended with a non-zero exit code.
    """
    log, output = directory / "log", directory / "output"
    children: list[subprocess.Popen[bytes]] = []
    started_at, started = time.time(), time.monotonic()
    with log.open("wb") as errors, output.open("wb") as stdout:
        for command in commands.values():
            is_last = len(children) == len(commands) - 1
            source = children[-1].stdout if children else None
            children.append(
                subprocess.Popen(
                    [str(argument) for argument in command],
                    stdin=source or subprocess.DEVNULL,
                    stdout=stdout if is_last else subprocess.PIPE,
                    stderr=errors,
                    env=dict(env),
                    cwd=directory,
                    start_new_session=True,
                )
            )
            if source:
                source.close()
        codes, cpu_seconds, peak_mib = [], 0.0, {}
        try:
            for name, child in zip(commands, children, strict=True):
                _, status, used = os.wait4(child.pid, 0)
                child.returncode = os.waitstatus_to_exitcode(status)
                codes.append(child.returncode)
                cpu_seconds += used.ru_utime + used.ru_stime
                peak_mib[name] = used.ru_maxrss * _MAXRSS_BYTES / MEBIBYTE
            seconds = time.monotonic() - started
        finally:
            for child in children:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
    if any(codes):
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        first = next(iter(commands.values()))[0]
        message = f"{first} ended with exit codes {codes}. End of {log}:\n{tail}"
        raise CommandError(message)
    text = output.read_text(errors="replace")
    return Usage(started_at, seconds, cpu_seconds, peak_mib, text)
