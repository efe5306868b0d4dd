"""The files that say what a commit, a build and a hook consist of."""

from __future__ import annotations

import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml
from packaging_helpers import ROOT

PRIVATE = [
    ".env",
    ".meltano/meltano.db",
    ".run/log/1.log",
    ".sandbox/env",
    "monitoring/.env",
    "sandbox/.sandbox/env",
]


@pytest.mark.parametrize("path", PRIVATE)
def test_secrets_and_state_stay_out_of_the_images(path: str) -> None:
    """The last pattern that matches a path, or a directory above it, decides."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    names = [path, *(str(parent) for parent in Path(path).parents)]
    matching = [
        pattern
        for pattern in patterns
        if any(fnmatchcase(f"/{name}", f"*/{pattern.strip('!/*')}") for name in names)
    ]
    assert matching
    assert not matching[-1].startswith("!")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the checkout is no git repository")
@pytest.mark.parametrize("path", PRIVATE)
def test_secrets_and_state_stay_out_of_git(path: str) -> None:
    done = subprocess.run(
        ["git", "check-ignore", "--verbose", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    # Not of a file of this machine alone.
    assert done.stdout.startswith(".gitignore:"), done.stderr


def test_hooks_run_every_check() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    checks = subprocess.run(
        ["sh", ROOT / "run-checks.sh", "--list"], check=True, capture_output=True, text=True
    ).stdout
    run = " ".join(hook["entry"].removeprefix("sh run-checks.sh ") for hook in hooks)
    assert sorted(run.split()) == sorted(checks.split())
    # A stage that `pre-commit install` leaves out would never run.
    stages = {stage for hook in hooks for stage in hook.get("stages", config["default_stages"])}
    assert stages == set(config["default_install_hook_types"])
