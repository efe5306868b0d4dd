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
        """Read the Singer state; empty when there is none."""
        said = self._meltano("get", STATE_ID).strip()
        state = json.loads(said or "{}").get(_KEY)
        return state if isinstance(state, dict) else {}

    def apply(self, correction: Correction) -> None:
        """Write or remove the state."""
        if correction.state is None:
            self._meltano("clear", "--force", STATE_ID)
        else:
            self._meltano("set", "--force", STATE_ID, json.dumps({_KEY: correction.state}))

    def _meltano(self, *words: str) -> str:
        command: list[str | Path] = [
            self._root / ".venv" / "bin" / "meltano",
            f"--environment={ENVIRONMENT}",
            "state",
            *words,
        ]
        done = self._interrupts.run(command, cwd=self._root, env=self._env)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            message = f"`meltano state {words[0]}` failed: {lines[-1]}"
            raise IngestionError(message)
        return done.stdout
