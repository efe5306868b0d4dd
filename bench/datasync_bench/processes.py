"""Run a command, or several connected by pipes, and measure time, CPU and memory.

CPU seconds come from ``wait4``, which includes the children of a process. Memory is the kernel's
peak resident size (``VmHWM``), read from ``/proc`` until the process has ended; on systems without
``/proc`` it is the largest resident size seen.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MEBIBYTE = 2**20
SAMPLE_INTERVAL_SECONDS = 0.1

Command = list[str | Path]


class CommandError(Exception):
    """A measured command failed; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run took.

    Attributes:
        started_at: Unix time in seconds.
        seconds: From the start of the first process to the end of the last.
        cpu_seconds: User and system time of all processes.
        peak_bytes: Largest resident size of a single process, by role: ``tap``, ``target``,
            ``meltano`` or ``program``.
        output: Standard output of the last command.
    """

    started_at: float
    seconds: float
    cpu_seconds: float
    peak_bytes: dict[str, int]
    output: str


def role(arguments: Sequence[str]) -> str:
    """Return the part that a process plays in a pipeline, from its command line."""
    names = [Path(argument).name for argument in arguments[:3]]
    for prefix, name in (("tap-", "tap"), ("sdk_tap", "tap"), ("target-", "target")):
        if any(each.startswith(prefix) for each in names):
            return name
    return "meltano" if "meltano" in names else "program"


@dataclass
class _MemorySampler:
    """Samples the memory of process trees in a thread until it is stopped."""

    pids: Sequence[int]
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(SAMPLE_INTERVAL_SECONDS):
            for pid in self.pids:
                with suppress(psutil.Error, OSError):
                    parent = psutil.Process(pid)
                    for process in (parent, *parent.children(recursive=True)):
                        self._sample(process)

    def _sample(self, process: psutil.Process) -> None:
        with suppress(psutil.Error, OSError):
            name, peak = role(process.cmdline()), _peak_bytes(process)
            self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), peak)


def _peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return int(process.memory_info().rss)


def run(commands: Sequence[Command], *, env: Mapping[str, str], directory: Path) -> Usage:
    """Run commands to the end, the output of each piped into the next.

    Args:
        commands: Programs with their arguments.
        env: The whole environment of every command.
        directory: Working directory; ``log`` in it receives standard error.

    Raises:
        CommandError: A command ended with a non-zero exit code.
    """
    log, output = directory / "log", directory / "output"
    children: list[subprocess.Popen[bytes]] = []
    started_at, started = time.time(), time.monotonic()
    with log.open("wb") as errors, output.open("wb") as stdout:
        for command in commands:
            is_last = len(children) == len(commands) - 1
            children.append(
                subprocess.Popen(
                    [str(argument) for argument in command],
                    stdin=children[-1].stdout if children else subprocess.DEVNULL,
                    stdout=stdout if is_last else subprocess.PIPE,
                    stderr=errors,
                    env=dict(env),
                    cwd=directory,
                    start_new_session=True,
                )
            )
            if len(children) > 1 and (pipe := children[-2].stdout) is not None:
                pipe.close()
        sampler = _MemorySampler([child.pid for child in children])
        try:
            codes, cpu_seconds = _wait(children)
            seconds = time.monotonic() - started
        finally:
            sampler.stop()
            for child in children:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
    if any(codes):
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        message = f"{commands[0][0]} ended with exit codes {codes}. End of {log}:\n{tail}"
        raise CommandError(message)
    text = output.read_text(errors="replace")
    return Usage(started_at, seconds, cpu_seconds, sampler.peak_bytes, text)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> tuple[list[int], float]:
    codes, cpu_seconds = [], 0.0
    for child in children:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        codes.append(child.returncode)
        cpu_seconds += used.ru_utime + used.ru_stime
    return codes, cpu_seconds
