"""Install what the bench needs, once: its own tools, and each peer in an environment of its own.

Uses the steps of `scripts/setup.py`: a stamp says what is complete, and a changed lock installs
again. Run by `run.sh` before anything is installed, so the standard library alone.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / "bench" / ".venvs"


def _project_setup() -> Any:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    if spec is None or spec.loader is None:
        message = "scripts/setup.py is missing"
        raise ImportError(message)
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def steps(setup: Any) -> Iterator[Any]:
    """What has to be there: one environment for each lock in `bench/requirements`."""
    for name, title, probe, packages in (
        ("bench", "the tools of the bench", "import matplotlib, psycopg", ["sandbox"]),
        ("singer", "a plain SDK tap and the stock loader", "import singer_sdk", []),
        ("dlt", "dlt", "import dlt", []),
    ):
        home, lock = VENVS / name, f"../bench/requirements/{name}.txt"

        def install(
            run: Any, home: Path = home, lock: str = lock, packages: list[str] = packages
        ) -> None:
            if packages:
                setup.make_venv(home, lock, packages, run)
                return
            run(sys.executable, "-m", "venv", "--clear", home)
            pip = (home / "bin" / "python", "-m", "pip", "install", "--no-input")
            run(*pip, "--require-hashes", "--requirement", f"requirements/{lock}")

        yield setup.Step(
            title=title,
            home=home,
            inputs=setup.read(
                "requirements/build.txt",
                "requirements/uv.txt",
                f"bench/requirements/{name}.txt",
                *(f"{package}/pyproject.toml" for package in packages),
            ),
            probes=[(home / "bin" / "python", "-c", probe)],
            install=install,
        )


def main() -> int:
    """Install what is missing; returns the exit code."""
    setup = _project_setup()
    state = ROOT / ".run"
    state.mkdir(mode=0o700, exist_ok=True)
    VENVS.mkdir(exist_ok=True)
    with setup.only_one(state / "install.lock") as lock:
        for step in steps(setup):
            if step.is_complete():
                continue
            print(f"Installing {step.title} ...", flush=True)
            step.stamp.unlink(missing_ok=True)
            try:
                step.install(setup.Runner(state / "install-bench.log", lock))
            except setup.SetupError as error:
                print(error, file=sys.stderr)
                return 1
            step.stamp.write_text(step.key)
    return 0


if __name__ == "__main__":
    sys.exit(main())
