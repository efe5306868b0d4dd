"""A checkout with the real installer, and a pip and a uv that need no network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Tests are imported by path, not as a package, so their helpers have to be on sys.path.
sys.path.insert(0, str(Path(__file__).parent))

from install_helpers import Checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Return a checkout in which nothing is installed."""
    return Checkout.create(tmp_path / "check out", tmp_path / "fakes")
