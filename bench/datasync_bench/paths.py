"""Where things are in a checkout."""

from __future__ import annotations

from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
WORK = BENCH / ".work"
"""Databases, logs and ready rows; may be removed at any time."""
PEERS = BENCH / "peers"

MELTANO = ROOT / ".venv" / "bin" / "meltano"
TAP = ROOT / ".meltano" / "extractors" / "tap-datasync" / "venv" / "bin" / "tap-datasync"
TARGET = (
    ROOT
    / ".meltano"
    / "loaders"
    / "target-postgres"
    / "venv"
    / "bin"
    / "target-postgres-checkpoint"
)
PYTHON = BENCH / ".venvs" / "bench" / "bin" / "python"
DLT_PYTHON = BENCH / ".venvs" / "dlt" / "bin" / "python"
SINGER_PYTHON = BENCH / ".venvs" / "singer" / "bin" / "python"
STOCK_TARGET = BENCH / ".venvs" / "singer" / "bin" / "target-postgres"
