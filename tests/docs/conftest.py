"""Tests are imported by their path, as modules of no package: what they share has to be found."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
