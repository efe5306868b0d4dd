"""Meltano's log: one JSON object a line, read for what the tap and the loader say.

Meltano 4.4.1 writes `{"event", "level", "timestamp", ...}`; lines of a plugin have
its name in `name`. How the processes ended is in the line "Block run completed",
`{"exit_codes": {"extractors": 3}}`, or, when the tap failed before the run began,
in the text of its `err`: "Catalog discovery failed: command [...] returned 2 ...".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

TAP = "tap-datasync"
LOADER = "target-postgres"
MELTANO = "meltano"
KEPT_LOGS = 50

_DISCOVERY_FAILED = re.compile(
    r"Catalog discovery failed: command .*? returned (\d+) with stderr", re.DOTALL
)
_HINT = "Need help fixing this problem?"
_SEVERE = frozenset({"error", "critical"})
# Plumbing of Meltano's own, of no use to a reader.
_DULL = frozenset(
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
        text: What is said.
        source: Who says it: `meltano`, or the plugin's name.
        level: debug, info, warning, error or critical.
        timestamp: As Meltano wrote it, UTC; empty for lines that are not JSON.
        facts: Everything else in the line.
    """

    text: str
    source: str = MELTANO
    level: str = "info"
    timestamp: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """The line as people read it."""
        rest = {name: value for name, value in self.facts.items() if name not in _DULL}
        facts = f"  {json.dumps(rest, default=str)}" if rest else ""
        return f"{self.timestamp:<27} {self.level:<8} {self.source:<15} {self.text}{facts}".strip()


def parse(line: str) -> LogLine:
    """Read one line; what is not JSON is taken as it stands."""
    line = line.rstrip("\n")
    try:
        facts = json.loads(line)
    except ValueError:
        return LogLine(line)
    if not isinstance(facts, dict) or not isinstance(facts.get("event"), str):
        return LogLine(line)
    return LogLine(
        text=facts["event"].strip(),
        source=str(facts.get("name") or MELTANO),
        level=str(facts.get("level", "info")),
        timestamp=str(facts.get("timestamp", "")),
        facts=facts,
    )


@dataclass(slots=True)
class Account:
    """What the log of one attempt tells about its end.

    Attributes:
        tap: Exit code of the tap, where the log names it.
        loader: Exit code of the loader, likewise.
        said: The last complaint of each, by name.
    """

    tap: int | None = None
    loader: int | None = None
    said: dict[str, str] = field(default_factory=dict)
    _discovery: str = ""

    def note(self, line: LogLine) -> None:
        """Take one more line into account."""
        if line.text == "Block run completed":
            codes = line.facts.get("exit_codes") or {}
            self.tap = codes.get("extractors", self.tap)
            self.loader = codes.get("loaders", self.loader)
            if found := _DISCOVERY_FAILED.search(str(line.facts.get("err") or "")):
                self.tap = int(found[1])
                # Meltano hands on what discovery wrote without its level: only now it is
                # known to have been a complaint.
                self.said[TAP] = self._discovery
        elif line.level in _SEVERE and line.text:
            self.said[line.source] = line.text.splitlines()[0]
        elif line.source != MELTANO and line.facts.get("type") == "discovery":
            self._discovery = line.text

    @property
    def reason(self) -> str | None:
        """The sentence that says best why the attempt failed."""
        first = (LOADER, TAP) if self.loader else (TAP, LOADER)
        return next((self.said[name] for name in (*first, MELTANO) if name in self.said), None)


def is_noise(line: LogLine) -> bool:
    """Whether a line tells nobody anything."""
    return line.text.startswith(_HINT)


def prune(directory: Path, keep: int = KEPT_LOGS) -> None:
    """Delete all but the newest logs; their names sort by time."""
    for old in sorted(directory.glob("*.log"))[:-keep]:
        old.unlink(missing_ok=True)
