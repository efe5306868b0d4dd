"""Runs programs and measures them: time, CPU seconds, and the memory of each process.

CPU seconds come from `wait4`, which counts what a program's own children have used as well.
Memory is the kernel's peak of each process (`VmHWM`), read from /proc until the process is gone;
where there is no /proc, the largest resident size that was seen.
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
_POLL_S = 0.1
_FIELDS = {"VmHWM:": 0, "VmRSS:": 1}


class ProgramError(Exception):
    """A program that is measured has failed; the message is a sentence and the end of its log."""


@dataclass
class Usage:
    """What a run has used.

    Attributes:
        seconds: From the start of the first process to the end of the last.
        cpu: CPU seconds of all its processes, user and system.
        peaks: Peak memory in bytes, by role: `tap`, `target`, `meltano`, or `program`.
        memory: Samples of resident memory by role: seconds since the start, and bytes.
        began: When it began, on the wall clock.
        output: What the last program wrote to its stdout.
    """

    seconds: float
    cpu: float
    peaks: dict[str, int]
    memory: dict[str, list[tuple[float, int]]]
    began: float
    output: str


def role(words: Sequence[str]) -> str:
    """Tell from a command line what a process is in a pipeline."""
    names = [Path(word).name for word in words[:3]]
    if any(name.startswith(("tap-", "plain_tap")) for name in names):
        return "tap"
    if any(name.startswith("target-") for name in names):
        return "target"
    if any(name == "meltano" for name in names):
        return "meltano"
    return "program"


@dataclass
class Sampler:
    """Looks at the processes below some others until it is stopped."""

    pids: Sequence[int]
    started: float
    peaks: dict[str, int] = field(default_factory=dict)
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start to look."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_POLL_S):
            for pid in self.pids:
                with suppress(psutil.Error, OSError):
                    top = psutil.Process(pid)
                    for process in (top, *top.children(recursive=True)):
                        self._look(process)

    def _look(self, process: psutil.Process) -> None:
        with suppress(psutil.Error, OSError):
            name = role(process.cmdline())
            peak, now = _memory(process)
            if peak < MEBIBYTE:
                return  # Between its fork and its own program, or already gone.
            self.peaks[name] = max(self.peaks.get(name, 0), peak)
            self.memory.setdefault(name, []).append((time.monotonic() - self.started, now))


def _memory(process: psutil.Process) -> tuple[int, int]:
    """Peak and present resident size in bytes."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        now = process.memory_info().rss
        return now, now
    sizes = [0, 0]
    for line in status.read_text().splitlines():
        words = line.split()
        if words[0] in _FIELDS:
            sizes[_FIELDS[words[0]]] = int(words[1]) * 1024
    return sizes[0], sizes[1]


def run(
    commands: Sequence[Sequence[str | Path]],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    discard: bool = False,
) -> Usage:
    """Run a program, or several with pipes between them, to the end.

    Args:
        commands: Each program's words; the stdout of one is the stdin of the next.
        env: Their whole environment.
        cwd: Where they run.
        log: Takes what they write to stderr; the last one's stdout goes beside it.
        discard: Throw the last one's stdout away.

    Raises:
        ProgramError: One of them failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    out = log.with_suffix(".out")
    children: list[subprocess.Popen[bytes]] = []
    began, started = time.time(), time.monotonic()
    with log.open("wb") as errors, out.open("wb") as output:
        for number, command in enumerate(commands):
            last = number == len(commands) - 1
            stdin = children[-1].stdout if children else subprocess.DEVNULL
            stdout = subprocess.PIPE if not last else subprocess.DEVNULL if discard else output
            children.append(
                subprocess.Popen(
                    [str(word) for word in command],
                    stdin=stdin,
                    stdout=stdout,
                    stderr=errors,
                    env=dict(env),
                    cwd=cwd,
                    start_new_session=True,
                )
            )
            if children[:-1] and children[-2].stdout is not None:
                children[-2].stdout.close()
        sampler = Sampler([child.pid for child in children], started)
        try:
            cpu, codes = _wait(children)
            seconds = time.monotonic() - started
        finally:
            sampler.stop()
            for child in children:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
    if any(codes):
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        message = f"{commands[0][0]} ended with {codes}; the end of {log}:\n{tail}"
        raise ProgramError(message)
    said = out.read_text(errors="replace")
    return Usage(seconds, cpu, sampler.peaks, sampler.memory, began, said)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> tuple[float, list[int]]:
    cpu, codes = 0.0, []
    for child in children:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        codes.append(child.returncode)
        cpu += used.ru_utime + used.ru_stime
    return cpu, codes


def cpu_of(pid: int) -> float:
    """CPU seconds of a server so far: its own, its children's, and those that have ended."""
    top = psutil.Process(pid)
    times = top.cpu_times()
    total = float(times.user + times.system + times.children_user + times.children_system)
    for child in top.children(recursive=True):
        with suppress(psutil.Error):
            used = child.cpu_times()
            total += used.user + used.system
    return total
