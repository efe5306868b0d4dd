"""Helpers of the packaging tests."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Project:
    """A Meltano project, and the environment in which Meltano runs."""

    home: Path
    env: dict[str, str]

    @classmethod
    def empty(cls, home: Path) -> Project:
        """Return a project in `home`, and an environment without settings of this project."""
        foreign = ("API_", "BATCH_", "DB_", "MELTANO_", "TAP_", "TARGET_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return cls(home, env)

    def meltano(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [ROOT / ".venv" / "bin" / "meltano", "--log-format=uncolored", *words],
            cwd=self.home,
            env={**self.env, "NO_COLOR": "1", **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"meltano {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done
