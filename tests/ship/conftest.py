"""A Meltano project in a directory of its own that borrows this checkout's plugins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Tests are imported by their path, as modules of no package: what they share has to be found.
sys.path.insert(0, str(Path(__file__).parent))

from ship_helpers import ROOT, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Give a project with the checkout's meltano.yml, its locks and its installed plugins.

    Never without `--no-install`: Meltano would install into the borrowed directories.
    """
    if not (ROOT / ".meltano" / ".complete").exists():
        subprocess.run([sys.executable, ROOT / "scripts" / "setup.py"], check=True)
    home = tmp_path / "project"
    (home / ".meltano").mkdir(parents=True)
    (home / "meltano.yml").write_text((ROOT / "meltano.yml").read_text())
    (home / "plugins").symlink_to(ROOT / "plugins")
    for kind in ("extractors", "loaders"):
        (home / ".meltano" / kind).symlink_to(ROOT / ".meltano" / kind)
    return Project.empty(home)
