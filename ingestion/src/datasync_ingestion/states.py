"""Meltano's state, held against the checkpoint in the database.

The checkpoint is committed with the rows, so it is what the database holds; the
state in `.meltano` is a copy that may belong to another database (`.env` was
changed), to a newer one (a backup was restored) or be one page behind (Meltano was
killed). Loading on from a state that claims more than the database holds would
leave a gap that nobody sees. An empty state claims nothing: it is left alone, and
`meltano state clear` does what it says.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datasync_ingestion import logs
from datasync_ingestion.errors import IngestionError
from datasync_ingestion.pipeline import ENVIRONMENT, STATE_ID

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from datasync_ingestion.interrupts import Interrupts

_KEY = "singer_state"


@dataclass(frozen=True, slots=True)
class Correction:
    """What the state has to become, and why. `state` is None when it has to go."""

    state: dict[str, Any] | None
    reason: str


def correct(
    state: Mapping[str, Any] | None, checkpoint: Mapping[str, Any] | None
) -> Correction | None:
    """Compare Meltano's state with the database's.

    Args:
        state: Meltano's Singer state; empty or None when there is none.
        checkpoint: The one in the database, likewise.

    Returns:
        What to change; None when all is well.
    """
    ours, theirs = _bookmark(state), _bookmark(checkpoint)
    if not ours or ours == theirs:
        return None
    if not theirs:
        return Correction(None, "The database is new, so everything is loaded.")
    return Correction(
        dict(checkpoint or {}), "The saved state is brought to where the database is."
    )


def _bookmark(state: Mapping[str, Any] | None) -> dict[str, Any]:
    bookmark = ((state or {}).get("bookmarks") or {}).get("events")
    return bookmark if isinstance(bookmark, dict) else {}


class MeltanoState:
    """The state as `meltano state` gives and takes it."""

    def __init__(self, root: Path, env: Mapping[str, str], interrupts: Interrupts) -> None:
        """Name the place; nothing is read yet."""
        self._root = root
        self._env = env
        self._interrupts = interrupts

    def read(self) -> dict[str, Any]:
        """Read the Singer state; empty when there is none.

        Raises:
            IngestionError: Meltano cannot read it.
        """
        said = self._meltano("get", STATE_ID).strip()
        try:
            found = json.loads(said or "{}")
        except ValueError:
            reason = "what it says is not JSON."
            raise _failed(reason, "get") from None
        state = found.get(_KEY) if isinstance(found, dict) else None
        return state if isinstance(state, dict) else {}

    def apply(self, correction: Correction) -> None:
        """Write or remove the state.

        Raises:
            IngestionError: Meltano cannot do that.
        """
        if correction.state is None:
            self._meltano("clear", "--force", STATE_ID)
        else:
            self._meltano("set", "--force", STATE_ID, json.dumps({_KEY: correction.state}))

    def _meltano(self, *words: str) -> str:
        command: list[str | Path] = [
            self._root / ".venv" / "bin" / "meltano",
            "--log-format=json",
            f"--environment={ENVIRONMENT}",
            "state",
            *words,
        ]
        done = self._interrupts.run(command, cwd=self._root, env=self._env)
        if done.returncode:
            reason = _complaint(done.stderr) or f"exit code {done.returncode}"
            raise _failed(reason, words[0])
        return done.stdout


def _complaint(log: str) -> str | None:
    """Find out of what Meltano complains; else it is the last thing that it says."""
    lines = [line for line in map(logs.parse, log.splitlines()) if not logs.is_noise(line)]
    account = logs.Account()
    for line in lines:
        account.note(line)
    said = [line.text for line in lines if line.text]
    return account.reason or (said[-1] if said else None)


def _failed(reason: str, verb: str) -> IngestionError:
    return IngestionError(f"`meltano state {verb}` failed: {reason}")
