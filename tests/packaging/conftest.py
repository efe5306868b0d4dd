"""A Meltano project in a directory of its own that uses this checkout's plugins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Tests are imported by path, not as a package, so their helpers have to be on sys.path.
sys.path.insert(0, str(Path(__file__).parent))

from packaging_helpers import ROOT, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project with the checkout's meltano.yml and plugins, and no state."""
    home = tmp_path / "project"
    home.mkdir()
    (home / "meltano.yml").write_text((ROOT / "meltano.yml").read_text())
    (home / "plugins").symlink_to(ROOT / "plugins")
    return Project.empty(home)
