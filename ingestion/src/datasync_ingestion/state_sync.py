"""Reconciles Meltano's state with the checkpoint in the database before a load.

The checkpoint is committed after the rows that it covers, so it always matches the table. Meltano's
state is a copy, which may be missing (a new checkout or container), belong to another database
(`.env` was changed), be ahead (a backup was restored) or be one page behind (Meltano was
killed). A state that is ahead would leave a gap, one that is behind would repeat work: if the two
differ, the checkpoint is used. The tap itself compares the API's address in the state with its
settings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from datasync_ingestion.config import Api
from datasync_ingestion.errors import ConfigError, IngestionError
from datasync_ingestion.meltano import ENVIRONMENT, STATE_ID, AttemptSummary, parse_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from datasync_ingestion.config import RunConfig
    from datasync_ingestion.signals import SignalWatcher

SANDBOX = "sandbox"
# The sandbox service of docker-compose.yml, as set in docker/entrypoint.sh. The key is compared
# too, because a real API may also have the host name `sandbox`.
_COMPOSE_SANDBOX = Api("http://sandbox:8765/api/v1", "sandbox-key")
_STATE_KEY = "singer_state"


@dataclass(frozen=True, slots=True)
class StateUpdate:
    """What Meltano's state is set to, and why. `state` is None where it is cleared."""

    state: dict[str, Any] | None
    reason: str


def reconcile(
    state: Mapping[str, Any] | None,
    checkpoint: Mapping[str, Any] | None,
    *,
    full_refresh: bool = False,
) -> StateUpdate | None:
    """Determine how Meltano's state has to change before a load.

    Args:
        state: Meltano's Singer state; empty or None where there is none.
        checkpoint: The Singer state in the database's checkpoint, likewise.
        full_refresh: Whether the user asked for a scan from the newest to the oldest event.

    Returns:
        The change; None where there is none to make.
    """
    saved, committed = _bookmark(state), _bookmark(checkpoint)
    if full_refresh:
        return StateUpdate(None, "Full refresh: loading from the newest event to the oldest.")
    if saved == committed:
        return None
    if not committed:
        return StateUpdate(None, "The database has no checkpoint: loading from the beginning.")
    found = "differs from" if saved else "is empty, unlike"
    reason = f"Meltano's state {found} the database's checkpoint: resuming from the checkpoint."
    return StateUpdate(dict(checkpoint or {}), reason)


def _bookmark(state: Mapping[str, Any] | None) -> dict[str, Any]:
    bookmarks = (state or {}).get("bookmarks")
    bookmark = bookmarks.get("events") if isinstance(bookmarks, dict) else None
    return bookmark if isinstance(bookmark, dict) else {}


class MeltanoState:
    """Reads and writes the state with `meltano state`."""

    def __init__(self, root: Path, env: Mapping[str, str], signals: SignalWatcher) -> None:
        self._root = root
        self._env = env
        self._signals = signals

    def read(self) -> dict[str, Any]:
        """Return the Singer state; empty where there is none.

        Raises:
            IngestionError: Meltano cannot read it.
            Interrupted: A signal arrived.
        """
        output = self._meltano("get", STATE_ID).strip()
        try:
            document = json.loads(output or "{}")
        except ValueError:
            message = "`meltano state get` failed: its output is not JSON."
            raise IngestionError(message) from None
        state = document.get(_STATE_KEY) if isinstance(document, dict) else None
        return state if isinstance(state, dict) else {}

    def apply(self, update: StateUpdate) -> None:
        """Write or clear the state.

        Raises:
            IngestionError: Meltano cannot do that.
            Interrupted: A signal arrived.
        """
        if update.state is None:
            self._meltano("clear", "--force", STATE_ID)
        else:
            self._meltano("set", "--force", STATE_ID, json.dumps({_STATE_KEY: update.state}))

    def _meltano(self, *arguments: str) -> str:
        command: list[str | Path] = [
            self._root / ".venv" / "bin" / "meltano",
            "--log-format=json",
            f"--environment={ENVIRONMENT}",
            "state",
            *arguments,
        ]
        done = self._signals.run(command, cwd=self._root, env=self._env)
        if done.returncode:
            reason = _error_in(done.stderr) or f"exit code {done.returncode}"
            message = f"`meltano state {arguments[0]}` failed: {reason}"
            raise IngestionError(message)
        return done.stdout


def _error_in(log: str) -> str | None:
    """Return Meltano's error message, or else the last line of its log."""
    lines = [line for line in map(parse_line, log.splitlines()) if not line.is_noise]
    summary = AttemptSummary()
    for line in lines:
        summary.add(line)
    texts = [line.text for line in lines if line.text]
    return summary.message or (texts[-1] if texts else None)


class SourceChange(Enum):
    """What to do before a load because the source of the events has changed."""

    NONE = "none"
    TRUNCATE = "truncate"
    """The sandbox serves other sample events than those in the database."""


def source_label(config: RunConfig, feed: str) -> str:
    """Return the source of this run's events, as `pipeline_runs` stores it.

    Args:
        config: What is used.
        feed: Which sample events the sandbox serves; empty without a sandbox.
    """
    if config.api is None:
        return f"{SANDBOX} {feed}".rstrip()
    url = config.api.url.rstrip("/")
    return f"{SANDBOX} {url}" if Api(url, config.api.key) == _COMPOSE_SANDBOX else url


def check_source_change(
    last: str | None, current: str, location: str, removal: str = ""
) -> SourceChange:
    """Compare the source of the events in the database with that of this run.

    A change between two real addresses is not handled here: the tap compares the address in its
    state.

    Args:
        last: Source of the events in the database; None where it is new.
        current: Source of this run.
        location: The database, for the message.
        removal: How to remove the database, where that is an option for the user.

    Raises:
        ConfigError: Sample events and real events would be mixed.
    """
    if last is None or last == current:
        return SourceChange.NONE
    had_samples, has_samples = _is_sandbox(last), _is_sandbox(current)
    if had_samples and has_samples:
        return SourceChange.TRUNCATE
    alternative = f", or {removal}" if removal else ""
    if had_samples:
        message = (
            f"The database {location} holds sample events of the sandbox, and real events are not "
            f"mixed with them: set DB_NAME to another database{alternative}."
        )
        raise ConfigError(message)
    if has_samples:
        message = (
            f"The database {location} holds events from {last}, and sample events are not mixed "
            f"with them: set API_KEY and API_BASE_URL again{alternative}."
        )
        raise ConfigError(message)
    return SourceChange.NONE


def _is_sandbox(source: str) -> bool:
    return source.partition(" ")[0] == SANDBOX
