"""Meltano as a child process: its pipeline, started, followed and stopped; its log; its state.

Meltano 4.4.1 logs one JSON object per line: `{"event", "level", "timestamp", ...}`, with the
plugin's name in `name`. The exit codes of tap and target are in the line "Block run completed",
as in `{"exit_codes": {"extractors": 3}}`. It is missing in two cases:

- When discovery failed the code is part of the text of `err`: "Catalog discovery failed: command
  [...] returned 2 with stderr ...".
- When the target ended first, writing to it may fail in Meltano, which then ends with that error.
  Tap and target log their own exit code as the field `exit_code` of their last message.
"""

from __future__ import annotations

import json
import queue
import re
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from datasync_ingestion.errors import IngestionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from datasync_ingestion.errors import SignalWatcher

TAP = "tap-datasync"
TARGET = "target-postgres"
MELTANO = "meltano"
ENVIRONMENT = "dev"
STATE_ID = f"{ENVIRONMENT}:{TAP}-to-{TARGET}"
_STATE_KEY = "singer_state"

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
        elif line.level in {"error", "critical"} and line.text:
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


def _command(root: Path, *words: str) -> list[str]:
    program = root / ".venv" / "bin" / "meltano"
    return [str(program), "--log-format=json", f"--environment={ENVIRONMENT}", *words]


class Pipeline:
    """One attempt: Meltano and the processes that it starts."""

    def __init__(self, root: Path, env: Mapping[str, str]) -> None:
        """Start it.

        Args:
            root: The checkout.
            env: Meltano's whole environment.
        """
        self._root = root
        # Without --force, Meltano refuses to run for five minutes after it was killed.
        command = _command(root, "run", "--no-install", "--force", TAP, TARGET)
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
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def stop_orphaned_pipeline(root: Path) -> bool:
    """Stop the pipeline of a run that was killed.

    The caller holds the checkout's lock, so every process that is found is an orphan.

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


class MeltanoState:
    """Reads and writes the Singer state with `meltano state`."""

    def __init__(self, root: Path, env: Mapping[str, str], signals: SignalWatcher) -> None:
        self._root = root
        self._env = env
        self._signals = signals

    def read(self) -> dict[str, Any]:
        """Return the state; empty where there is none.

        Raises:
            IngestionError: Meltano cannot read it.
            Interrupted: A signal arrived.
        """
        output = self._run("get", STATE_ID).strip()
        try:
            document = json.loads(output or "{}")
        except ValueError:
            message = "`meltano state get` failed: its output is not JSON."
            raise IngestionError(message) from None
        state = document.get(_STATE_KEY) if isinstance(document, dict) else None
        return state if isinstance(state, dict) else {}

    def write(self, state: Mapping[str, Any]) -> None:
        """Write the state; an empty one is cleared.

        Raises:
            IngestionError: Meltano cannot do that.
            Interrupted: A signal arrived.
        """
        if state:
            self._run("set", "--force", STATE_ID, json.dumps({_STATE_KEY: state}))
        else:
            self._run("clear", "--force", STATE_ID)

    def _run(self, verb: str, *arguments: str) -> str:
        command = _command(self._root, "state", verb, *arguments)
        done = self._signals.run(command, cwd=self._root, env=self._env)
        if done.returncode:
            reason = _error_in(done.stderr) or f"exit code {done.returncode}"
            message = f"`meltano state {verb}` failed: {reason}"
            raise IngestionError(message)
        return done.stdout


def _error_in(log: str) -> str | None:
    """Return Meltano's error message, or else the last line of its log."""
    summary, last = AttemptSummary(), None
    for line in map(parse_line, log.splitlines()):
        if not line.is_noise:
            summary.add(line)
            last = line.text or last
    return summary.message or last


def reconcile(
    state: Mapping[str, Any] | None,
    checkpoint: Mapping[str, Any] | None,
    *,
    full_refresh: bool = False,
) -> tuple[dict[str, Any], str] | None:
    """Determine how Meltano's state has to change before a load.

    The checkpoint is committed after the rows that it covers, so it always matches the table.
    Meltano's state is a copy, which may be missing (a new checkout or container), belong to another
    database (`.env` was changed), be ahead (a backup was restored) or be one page behind (Meltano
    was killed). A state that is ahead would leave a gap, one that is behind would repeat work: if
    the two differ, the checkpoint is used. The tap itself compares the API's address in the state
    with its settings.

    Args:
        state: Meltano's Singer state; empty or None where there is none.
        checkpoint: The Singer state in the database's checkpoint, likewise.
        full_refresh: Whether the user asked for a scan from the newest to the oldest event.

    Returns:
        The new state, empty to clear it, and the reason; None where nothing has to change.
    """
    saved, committed = _bookmark(state), _bookmark(checkpoint)
    if full_refresh:
        return {}, "Full refresh: loading from the newest event to the oldest."
    if saved == committed:
        return None
    if not committed:
        return {}, "The database has no checkpoint: loading from the beginning."
    found = "differs from" if saved else "is empty, unlike"
    reason = f"Meltano's state {found} the database's checkpoint: resuming from the checkpoint."
    return dict(checkpoint or {}), reason


def _bookmark(state: Mapping[str, Any] | None) -> dict[str, Any]:
    bookmarks = (state or {}).get("bookmarks")
    bookmark = bookmarks.get("events") if isinstance(bookmarks, dict) else None
    return bookmark if isinstance(bookmark, dict) else {}
