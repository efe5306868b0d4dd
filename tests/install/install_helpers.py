"""The installer in a checkout of its own, with a fake pip and a fake uv as real programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# `pip install --target=DIR` puts the fake uv there; `pip config list` shows $PIP_LISTING.
PIP = """
import os, pathlib, shutil, sys
if sys.argv[1] == "config":
    print(os.environ.get("PIP_LISTING", ""))
elif sys.argv[1] == "install":
    [target] = [word.partition("=")[2] for word in sys.argv if word.startswith("--target=")]
    programs = pathlib.Path(target, "bin")
    programs.mkdir(parents=True)
    shutil.copy(pathlib.Path(__file__).with_name("uv"), programs)
"""

# `uv venv` makes a directory whose Python is that of the tests; `uv pip install` runs $UV_SCRIPT.
UV = """#!/bin/sh
case "$1 $2" in
"--version "*) echo "uv {version} (fake)" ;;
"cache dir") echo "${{UV_CACHE:-/tmp}}" ;;
"venv "*)
    for home; do :; done
    mkdir -p "$home/bin"
    printf '#!/bin/sh\\nexec "{python}" "$@"\\n' >"$home/bin/python"
    cp "$0" "$home/bin/uv"
    chmod +x "$home/bin/python"
    ;;
"pip install")
    echo "$*" >>"$CALLS"
    env >"$CALLS.env"
    eval "${{UV_SCRIPT:-true}}"
    ;;
esac
"""


@dataclass
class Checkout:
    """A checkout, and the environment in which its installer runs."""

    root: Path
    env: dict[str, str]
    calls: Path = field(init=False)

    def __post_init__(self) -> None:
        self.calls = Path(self.env["CALLS"])

    @classmethod
    def create(cls, root: Path, fakes: Path) -> Checkout:
        files = ["meltano.yml", "run-ingestion.sh", "ingestion/src/datasync_ingestion/help.txt"]
        for pattern in ("scripts/*", "requirements/*", "*/pyproject.toml"):
            files += [str(path.relative_to(ROOT)) for path in ROOT.glob(pattern) if path.is_file()]
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        locked = (ROOT / "requirements" / "lock.txt").read_text()
        version = locked.split("\nuv==")[1].split()[0]
        (fakes / "pip").mkdir(parents=True)
        (fakes / "pip" / "__init__.py").touch()
        (fakes / "pip" / "__main__.py").write_text(PIP)
        uv = fakes / "pip" / "uv"
        uv.write_text(UV.format(version=version, python=sys.executable))
        uv.chmod(0o755)
        foreign = ("UV_", "PIP_", "SSL_", "PYTHON")
        env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return cls(root, {**env, "PYTHONPATH": str(fakes), "CALLS": str(fakes / "calls")})

    def command(self, *words: str) -> list[str]:
        return [sys.executable, str(self.root / "scripts" / "install.py"), *words]

    def install(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env={**self.env, **env},
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words),
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def installations(self) -> list[str]:
        """The `uv pip install` commands so far."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def environments(self) -> list[Path]:
        return sorted(path for path in (self.root / ".venvs").iterdir() if path.is_dir())

    def change_lock(self) -> None:
        with (self.root / "requirements" / "lock.txt").open("a") as lock:
            lock.write("# changed\n")
