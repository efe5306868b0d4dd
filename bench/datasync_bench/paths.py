"""Where things are in a checkout."""

from __future__ import annotations

from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
WORK = BENCH / ".work"
"""Databases, logs and ready rows; may be removed at any time."""
PEERS = BENCH / "peers"

PROGRAMS = ROOT / ".venv" / "bin"
MELTANO = PROGRAMS / "meltano"
TAP = PROGRAMS / "tap-datasync"
TARGET = PROGRAMS / "target-postgres-checkpoint"
PEERS_PROGRAMS = ROOT / ".venv-bench" / "bin"
PYTHON = DLT_PYTHON = SINGER_PYTHON = PEERS_PROGRAMS / "python"
STOCK_TARGET = PEERS_PROGRAMS / "target-postgres"
