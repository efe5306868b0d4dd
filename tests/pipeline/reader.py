"""Reads a tap's messages as a target would, and keeps rows and state."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass, field
from typing import Any

import msgspec
from singer_sdk.plugin_base import _ConfigInput
from tap_datasync.errors import TapDataSyncError
from tap_datasync.tap import TapDataSync


@dataclass
class Table:
    """What a target would hold."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejected: dict[str, dict[str, Any]] = field(default_factory=dict)
    pages: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)
    duplicates: int = 0

    def read(self, output: bytes) -> None:
        """Take in messages; every line has to be one."""
        for line in output.splitlines():
            message = msgspec.json.decode(line)
            if message["type"] == "STATE":
                self.state = message["value"]
            elif message["type"] == "RECORD":
                self._read_record(message["stream"], message["record"])

    def _read_record(self, stream: str, record: dict[str, Any]) -> None:
        if stream == "events":
            self.duplicates += record["id"] in self.rows
            self.rows[record["id"]] = record
        elif stream == "rejected_events":
            self.rejected[record["rejection_id"]] = record
        else:
            self.pages.append(record)


@dataclass
class Run:
    """One run of the tap."""

    exit_code: int
    sentence: str
    log: str


def run_tap(table: Table, config: dict[str, Any], caplog: Any) -> Run:
    """Run the tap in this process, from the table's state into the table."""
    caplog.clear()
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    state = io.StringIO(json.dumps(table.state)) if table.state else None
    code, sentence = 0, ""
    real, sys.stdout = sys.stdout, output
    try:
        TapDataSync.invoke(config=_ConfigInput(config=dict(config)), state=state, catalog=None)
    except TapDataSyncError as error:
        code, sentence = error.exit_code, str(error)
    finally:
        sys.stdout = real
    output.flush()
    table.read(output.buffer.getvalue())  # type: ignore[attr-defined]
    return Run(code, sentence, caplog.text)
