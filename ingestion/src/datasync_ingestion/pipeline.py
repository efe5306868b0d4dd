"""`meltano run tap-datasync target-postgres` as a child: started, followed, stopped."""

from __future__ import annotations

import json
import queue
import secrets
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from datasync_ingestion import processes
from datasync_ingestion.errors import BusyError
from datasync_ingestion.logs import LOADER, TAP

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ENVIRONMENT = "dev"
STATE_ID = f"{ENVIRONMENT}:{TAP}-to-{LOADER}"
# Together well below the ten seconds after which Docker kills: there is more to do than to wait.
TAP_GRACE_S = 4.0
MELTANO_GRACE_S = 1.5
LEFTOVER_GRACE_S = 1.5
# In the environment of all that belongs to one attempt: the number of a session is
# no proof, the kernel gives it out again, to the user's own terminal for instance.
MARK = "DATASYNC_INGESTION_PIPELINE"
_LAST_LINES_S = 1.0
_POLL_S = 0.05


class Pipeline:
    """One attempt: the process of Meltano and all that it starts."""

    def __init__(self, root: Path, env: Mapping[str, str]) -> None:
        """Start it.

        Args:
            root: The checkout.
            env: Its whole environment.

        Raises:
            OSError: It cannot be noted that it runs; it is stopped again.
        """
        self._root = root
        command = [
            str(root / ".venv" / "bin" / "meltano"),
            "--log-format=json",
            f"--environment={ENVIRONMENT}",
            "run",
            "--no-install",
            # Meltano refuses to run for five minutes after it was killed.
            "--force",
            TAP,
            LOADER,
        ]
        mark = secrets.token_hex(16)
        self._process = subprocess.Popen(  # noqa: S603 - the project's own program
            command,
            cwd=root,
            env={**env, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            # Ctrl-C in the terminal reaches only us, and we stop it in order.
            start_new_session=True,
        )
        self.session = self._process.pid
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            # For a supervisor that comes after one that was killed.
            _record(root).write_text(json.dumps({"session": self.session, "mark": mark}))
        except OSError:
            self.stop()
            raise

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - a pipe, see above
        with self._process.stdout as log:
            for line in log:
                self._lines.put(line)
        self._lines.put(None)

    def next_line(self, timeout: float) -> str | None:
        """Return the next line of the log.

        Args:
            timeout: Seconds to wait for one.

        Returns:
            The line; empty when none came in time; None at the end of the log.
        """
        with suppress(queue.Empty):
            return self._lines.get(timeout=timeout)
        if self._process.poll() is None:
            return ""
        # An orphan may hold the pipe open: without Meltano nothing more is to come.
        self._reader.join(_LAST_LINES_S)
        with suppress(queue.Empty):
            return self._lines.get_nowait()
        return None

    def wait(self) -> int:
        """Wait for Meltano's end, and for everything that it started.

        Returns:
            The exit code, negative for a signal, as `subprocess` has it.
        """
        code = self._process.wait()
        processes.end(self.session, LEFTOVER_GRACE_S)
        self._reader.join()
        _record(self._root).unlink(missing_ok=True)
        if code < 0:
            remove_configs(self._root)
        return code

    def stop(self) -> None:
        """Ask it to end, the tap first, and see to it within some seconds.

        When the tap ends, Meltano lets the loader finish what it has been sent and
        saves its state: the next run goes on from there. When Meltano gets the
        signal it hands it to both at once, so that is the second choice.
        """
        taps = processes.taps(self.session)
        processes.send(taps, signal.SIGTERM)
        if not (taps and self._ended_within(TAP_GRACE_S)):
            self._process.terminate()
            if not self._ended_within(MELTANO_GRACE_S):
                processes.send(processes.members(self.session), signal.SIGKILL)
        self.wait()

    def _ended_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self._process.poll() is None:
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_S)
        return True


def clear_the_way(root: Path) -> bool:
    """End the pipeline of a supervisor that was killed.

    The caller holds the lock, so nobody watches that pipeline any more.

    Returns:
        Whether there was one.

    Raises:
        BusyError: Somebody has started a pipeline by hand; that one is left alone.
    """
    found, record = False, _record(root)
    with suppress(OSError, ValueError, KeyError, TypeError):
        noted = json.loads(record.read_text())
        if processes.has(noted["session"], MARK, noted["mark"]):
            found = True
            processes.end(noted["session"], TAP_GRACE_S)
    record.unlink(missing_ok=True)
    if others := processes.running(root):
        message = (
            f"A pipeline that was started by hand is running (process {others[0].pid}): "
            "wait for it or stop it, then run this again."
        )
        raise BusyError(message)
    remove_configs(root)
    return found


def remove_configs(root: Path) -> None:
    """Delete the settings that a killed Meltano left in its files, the key among them."""
    for path in (root / ".meltano" / "run").glob("*/*.config.json"):
        path.unlink(missing_ok=True)


def batch_config(directory: Path) -> str:
    """Write the setting `batch_config` of the tap, which turns the bulk lane on.

    Args:
        directory: Where the files lie between the tap and the loader.
    """
    encoding = {"format": "jsonl", "compression": "none"}
    return json.dumps({"encoding": encoding, "storage": {"root": directory.as_uri()}})


def _record(root: Path) -> Path:
    return root / ".run" / "pipeline.json"
