"""How an attempt ended: by the checkpoint in the database, not by an exit code alone."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from datasync_ingestion import errors
from datasync_ingestion.logs import LOADER, TAP

if TYPE_CHECKING:
    from datasync_ingestion.database import Checkpoint
    from datasync_ingestion.logs import Account

# The tap's exit codes: 2 its settings are wrong, 3 waiting cannot mend it. The
# loader has the first of them too.
_HOPELESS = frozenset({errors.USAGE, errors.HOPELESS})


class End(Enum):
    """What to do after an attempt."""

    FINISHED = "finished"
    AGAIN = "again"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to do, why, and the exit code if it is the last word."""

    end: End
    reason: str = ""
    exit_code: int = errors.OK


def judge(code: int, account: Account, checkpoint: Checkpoint | None) -> Outcome:
    """Judge an attempt.

    Args:
        code: Meltano's exit code; negative for a signal.
        account: What the log tells.
        checkpoint: As it stands now; None when there is none.
    """
    for name, part in ((TAP, account.tap), (LOADER, account.loader)):
        if part is not None and part in _HOPELESS:
            # Its own words: the other part may have complained too, of the consequence.
            sentence = account.said.get(name) or f"{name} ended with exit code {part}."
            return Outcome(End.GIVE_UP, sentence, part)
    if code == 0:
        if checkpoint is not None and checkpoint.finished:
            return Outcome(End.FINISHED)
        reason = "Meltano ended well, but the checkpoint says that the walk is not finished."
        return Outcome(End.AGAIN, reason, errors.FAILED)
    said = account.reason
    if code < 0:
        said = f"Meltano was ended by {signal.Signals(-code).name}."
    return Outcome(End.AGAIN, said or f"Meltano ended with exit code {code}.", errors.FAILED)
