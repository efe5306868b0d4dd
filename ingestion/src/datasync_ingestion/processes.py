"""All processes of one session: what a killed Meltano leaves behind is found by it.

Meltano is started as the leader of a new session; the tap and the loader inherit
it, also when their parent is gone. The kernel gives no new process the number of
a session that still has members: while we watch one, its number is never mistaken.
A number read from a file may be anybody's by now, so it is believed only where a
member carries a mark of ours in its environment.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_POLL_S = 0.05


def members(session: int) -> list[psutil.Process]:
    """Find the living processes of a session."""
    found = []
    for pid in psutil.pids():
        with suppress(OSError, psutil.Error):
            if os.getsid(pid) == session:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


def has(session: int, variable: str, value: str) -> bool:
    """Tell whether a member of a session has this in its environment."""
    for process in members(session):
        with suppress(OSError, psutil.Error):
            if process.environ().get(variable) == value:
                return True
    return False


def running(root: Path) -> list[psutil.Process]:
    """Find the taps of this checkout, whoever started them."""
    place = f"{root}/.venv/bin/tap-datasync"
    return [process for process in psutil.process_iter() if _is_in(process, place)]


def taps(session: int) -> list[psutil.Process]:
    """Find the taps of a session."""
    return [process for process in members(session) if _is_in(process, "/bin/tap-datasync")]


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def end(session: int, grace: float) -> None:
    """End what is left of a session: SIGTERM, and SIGKILL after `grace` seconds."""
    if not (left := members(session)):
        return
    send(left, signal.SIGTERM)
    until = time.monotonic() + grace
    while members(session) and time.monotonic() < until:
        time.sleep(_POLL_S)
    while left := members(session):
        send(left, signal.SIGKILL)
        time.sleep(_POLL_S)


def _is_in(process: psutil.Process, place: str) -> bool:
    with suppress(psutil.Error):
        # The interpreter comes first, the script that it runs second.
        return any(place in word for word in process.cmdline()[:2])
    return False
