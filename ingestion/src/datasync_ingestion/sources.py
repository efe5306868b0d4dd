"""Where the events come from, and what follows when that has changed.

A database belongs to one source of events. The supervisor notes the source in
the table `runs`, and looks at it before it loads: made-up and real events are
never mixed, and a state is not carried over to events that it knows nothing of.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING

from datasync_ingestion.errors import UsageError
from datasync_ingestion.settings import Api

if TYPE_CHECKING:
    from pathlib import Path

    from datasync_ingestion.settings import Plan

SANDBOX = "sandbox"
# The service of docker-compose.yml, which serves events that are as made up as a laptop's: what
# docker/entrypoint.sh sets. An API of somebody's own may well be called sandbox, too.
_OF_COMPOSE = Api("http://sandbox:8765/api/v1", "sandbox-key")
# The options of the sandbox's API that say which events there are.
_FEED = ("--events", "--seed", "--newest", "--unsorted", "--malformed", "--malformed-kinds")
_REMOVE = "remove the embedded one with `sh run-ingestion.sh --stop` and `rm -r .sandbox`"


class Change(Enum):
    """What has to be done before a load."""

    NONE = "none"
    FORGET = "forget"
    """Remove the made-up events of another feed."""
    WALK = "walk"
    """Walk to the oldest event: the state is about another address."""


def name(plan: Plan, sandbox: Path) -> str:
    """Name the source of this run.

    Args:
        plan: What is used.
        sandbox: The sandbox's directory; `api.json` in it holds the options of the API that runs.
    """
    if plan.api is not None:
        url = plan.api.url.rstrip("/")
        return f"{SANDBOX} {url}" if Api(url, plan.api.key) == _OF_COMPOSE else url
    note = json.loads((sandbox / "api.json").read_text())
    feed = sorted(option for option in note["args"] if option.partition("=")[0] in _FEED)
    if "--newest=now" in feed:
        # Other events each time that it is started.
        feed.append(f"started={note['created']}")
    return " ".join([SANDBOX, *feed])


def compare(last: str | None, this: str, database: str) -> Change:
    """Compare the source of the last run into a database with that of this one.

    Args:
        last: The last run's, None when the database is new.
        this: This run's.
        database: Where the database is, for people.

    Raises:
        UsageError: Made-up and real events would be mixed.
    """
    if last is None or last == this:
        return Change.NONE
    was_made_up, is_made_up = _made_up(last), _made_up(this)
    if was_made_up and is_made_up:
        return Change.FORGET
    if was_made_up:
        message = (
            f"The database {database} holds made-up events of the sandbox, and real ones do not go "
            f"beside them: name another database, or {_REMOVE}."
        )
        raise UsageError(message)
    if is_made_up:
        message = (
            f"The database {database} holds real events from {last}, and made-up ones do not go "
            f"beside them: set API_KEY and API_BASE_URL again, or {_REMOVE}."
        )
        raise UsageError(message)
    return Change.WALK


def _made_up(source: str) -> bool:
    return source.partition(" ")[0] == SANDBOX
