"""`meltano run tap-datasync target-postgres` as a child process: started, followed, stopped.

Meltano 4.4.1 logs one JSON object per line: `{"event", "level", "timestamp", ...}`, with the
plugin's name in `name`. The exit codes of tap and target are in the line "Block run completed",
as in `{"exit_codes": {"extractors": 3}}`. It is missing in two cases:

- When discovery failed the code is part of the text of `err`: "Catalog discovery failed: command
  [...] returned 2 with stderr ...".
- When the target ended first, writing to it may fail in Meltano, which then ends with that error.
  Tap and target log their own exit code as the field `exit_code` of their last message.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from datasync_ingestion.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TAP = "tap-datasync"
TARGET = "target-postgres"
MELTANO = "meltano"
ENVIRONMENT = "dev"
STATE_ID = f"{ENVIRONMENT}:{TAP}-to-{TARGET}"

PIPELINE_VARIABLE = "DATASYNC_PIPELINE_ROOT"
"""In the environment of a pipeline's processes: the checkout. It identifies them reliably,
unlike a process or session id, which the kernel reuses."""

# In total well below the ten seconds after which Docker sends SIGKILL.
TAP_STOP_SECONDS = 4.0
MELTANO_STOP_SECONDS = 1.5
REMAINING_STOP_SECONDS = 1.5
_LAST_LINES_SECONDS = 1.0
_POLL_SECONDS = 0.05

_DISCOVERY_FAILED = re.compile(
    r"Catalog discovery failed: command .*? returned (\d+) with stderr", re.DOTALL
)
_SUPPORT_OFFER = "Need help fixing this problem?"
# Meltano converts a setting's text to its kind in this function.
_SETTING_CONVERSION = "cast_value"
_NOT_A_NUMBER = "[<class 'decimal.ConversionSyntax'>]"
# Fields of Meltano that are not shown.
_HIDDEN_FIELDS = frozenset(
    {
        "_logger",
        "_name",
        "app_name",
        "cmd_type",
        "consumer",
        "event",
        "job_name",
        "level",
        "name",
        "pid",
        "plugin_logger",
        "producer",
        "run_id",
        "stdio",
        "string_id",
        "thread_name",
        "timestamp",
        "type",
    }
)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log.

    Attributes:
        text: The message.
        source: `meltano`, or the plugin's name.
        level: debug, info, warning, error or critical.
        timestamp: As Meltano wrote it, UTC; empty for a line that is not JSON.
        fields: The whole JSON object.
    """

    text: str
    source: str = MELTANO
    level: str = "info"
    timestamp: str = ""
    fields: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = {name: value for name, value in self.fields.items() if name not in _HIDDEN_FIELDS}
        rest = f"  {json.dumps(shown, default=str)}" if shown else ""
        return f"{self.timestamp:<27} {self.level:<8} {self.source:<15} {self.text}{rest}".strip()

    @property
    def is_error(self) -> bool:
        """Whether it is an error message."""
        return self.level in {"error", "critical"}

    @property
    def is_noise(self) -> bool:
        """Whether it is Meltano's offer of support, without information about the run."""
        return self.text.startswith(_SUPPORT_OFFER)


def parse_line(line: str) -> LogLine:
    """Parse one line of the log; what is not JSON is the message as it is."""
    line = line.rstrip("\n")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return LogLine(line)
    if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
        return LogLine(line)
    return LogLine(
        text=fields["event"].strip(),
        source=str(fields.get("name") or MELTANO),
        level=str(fields.get("level", "info")),
        timestamp=str(fields.get("timestamp", "")),
        fields=fields,
    )


@dataclass(slots=True)
class AttemptSummary:
    """How tap and target of one attempt ended, as the log reports it.

    Attributes:
        exit_codes: By plugin, where the log names one.
        errors: The last error message of tap, target and Meltano.
        invalid_setting: Meltano's error about a setting that it could not read.
    """

    exit_codes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    invalid_setting: str | None = None
    _discovery: str = ""

    def add(self, line: LogLine) -> None:
        """Evaluate one more line."""
        if line.text == "Block run completed":
            codes = line.fields.get("exit_codes") or {}
            self._add_exit_code(TAP, codes.get("extractors"))
            self._add_exit_code(TARGET, codes.get("loaders"))
            if found := _DISCOVERY_FAILED.search(str(line.fields.get("err") or "")):
                self._add_exit_code(TAP, int(found[1]))
                # Meltano relays the messages of a discovery without their level.
                self.errors.setdefault(TAP, self._discovery)
        elif line.is_error and line.text:
            self.errors[line.source] = line.text.splitlines()[0]
            self._add_exit_code(line.source, line.fields.get("exit_code"))
            if line.source == MELTANO and _failed_in(line, _SETTING_CONVERSION):
                # The text of a decimal.InvalidOperation is the name of a class.
                self.invalid_setting = line.text.replace(_NOT_A_NUMBER, "not a number")
        elif line.source != MELTANO and line.fields.get("type") == "discovery":
            self._discovery = line.text

    def _add_exit_code(self, plugin: str, code: object) -> None:
        if isinstance(code, int):
            self.exit_codes[plugin] = code

    @property
    def message(self) -> str | None:
        """The message that names the cause of the failure best.

        When the target fails the tap fails too, as a consequence.
        """
        first = (TARGET, TAP) if self.exit_codes.get(TARGET) else (TAP, TARGET)
        return next((self.errors[name] for name in (*first, MELTANO) if name in self.errors), None)


def _failed_in(line: LogLine, function: str) -> bool:
    """Whether a traceback in the line contains a function."""
    exceptions = line.fields.get("exception")
    return isinstance(exceptions, list) and any(
        frame.get("name") == function
        for exception in exceptions
        if isinstance(exception, dict)
        for frame in exception.get("frames") or []
    )


class Pipeline:
    """One attempt: Meltano and the processes that it starts."""

    def __init__(self, root: Path, env: Mapping[str, str]) -> None:
        """Start it.

        Args:
            root: The checkout.
            env: Meltano's whole environment.
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
            TARGET,
        ]
        self._process = subprocess.Popen(  # noqa: S603 - the project's own program
            command,
            cwd=root,
            env={**env, PIPELINE_VARIABLE: str(root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            # Ctrl-C in the terminal does not reach it: the run stops it in the right order.
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

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
        # A process that outlives Meltano may keep the pipe open.
        self._reader.join(_LAST_LINES_SECONDS)
        with suppress(queue.Empty):
            return self._lines.get_nowait()
        return None

    def wait(self) -> int:
        """Wait for the end of Meltano, and stop the processes that it left running.

        Returns:
            The exit code, negative for a signal.
        """
        code = self._process.wait()
        _stop(self._root, REMAINING_STOP_SECONDS)
        self._reader.join()
        if code < 0:
            remove_plugin_configs(self._root)
        return code

    def stop(self) -> None:
        """Stop it within some seconds, the tap first.

        When the tap ends, Meltano lets the target finish what it has received and saves its
        state. A signal to Meltano reaches both at once, so that is the second choice.
        """
        taps = [process for process in pipeline_processes(self._root) if _is_tap(process)]
        _send(taps, signal.SIGTERM)
        if not (taps and self._ends_within(TAP_STOP_SECONDS)):
            self._process.terminate()
            if not self._ends_within(MELTANO_STOP_SECONDS):
                _send(pipeline_processes(self._root), signal.SIGKILL)
        self.wait()

    def _ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True


@contextmanager
def exclusive_lock(path: Path, hint: str = "") -> Iterator[None]:
    """Hold the lock of a checkout; the kernel releases it however the process ends.

    While it is held, every process of a pipeline that this process did not start is an orphan.

    Args:
        path: The lock file; it contains the process id of the holder.
        hint: Appended to the message of `BusyError`: an alternative to waiting.

    Raises:
        BusyError: Another process holds it.
    """
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(20).strip() or "unknown"
            message = f"Another run is in progress here (process {holder}): wait for it{hint}."
            raise BusyError(message) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def stop_orphaned_pipeline(root: Path) -> bool:
    """Stop the pipeline of a run that was killed. The caller holds the checkout's lock.

    Returns:
        Whether there was one.
    """
    found = _stop(root, TAP_STOP_SECONDS)
    remove_plugin_configs(root)
    return found


def pipeline_processes(root: Path) -> list[psutil.Process]:
    """Find the running processes of the pipelines that a run started in a checkout."""
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if (
                process.environ().get(PIPELINE_VARIABLE) == str(root)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def remove_plugin_configs(root: Path) -> None:
    """Delete the plugin settings, secrets among them, that a killed Meltano left in files."""
    for path in (root / ".meltano" / "run").glob("*/*.config.json"):
        path.unlink(missing_ok=True)


def _stop(root: Path, seconds: float) -> bool:
    """End all processes of a pipeline: SIGTERM, and SIGKILL after some seconds."""
    if not (remaining := pipeline_processes(root)):
        return False
    _send(remaining, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while pipeline_processes(root) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    while remaining := pipeline_processes(root):
        _send(remaining, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    return True


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(number)


def _is_tap(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        # The interpreter comes first, the script second.
        return any(Path(word).name == TAP for word in process.cmdline()[:2])
    return False
