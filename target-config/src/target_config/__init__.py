"""Loader layer over the stock target: it commits before it checkpoints."""

from __future__ import annotations

__version__ = "0.1.0"
