"""What `run-ingestion.sh --docker` asks of Compose, and what the container runs."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from datasync_ingestion.config import PLACEHOLDER_KEY, PLACEHOLDER_URL
from ship_helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# Notes how it is called, and what it is told about the account and the database.
DOCKER = """#!/bin/sh
echo "$* | key=${API_KEY-unset} password=${DB_PASSWORD-unset}" >>"$CALLS"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    home = tmp_path / "check out"
    (home / "docker").mkdir(parents=True)
    for name in ("run-ingestion.sh", "docker/run.sh"):
        (home / name).write_text((ROOT / name).read_text())
    (home / "bin").mkdir()
    docker = home / "bin" / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    return home


def run(home: Path, *options: str, **env: str) -> list[str]:
    calls = home / "calls"
    done = subprocess.run(
        ["sh", home / "run-ingestion.sh", *options],
        env={"PATH": f"{home / 'bin'}{os.pathsep}{os.defpath}", "CALLS": str(calls), **env},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return calls.read_text().splitlines()


def test_without_a_key_the_sandbox_stands_in(checkout: Path) -> None:
    calls = run(checkout, "--docker")
    assert calls[-1] == (
        "compose --profile=sandbox run --rm ingestion --bulk | key= password=sandbox"
    )


def test_what_is_run_is_built_before_anything_starts(checkout: Path) -> None:
    """The sandbox's container has no image of its own: it is that of the load."""
    steps = [call.partition(" | ")[0] for call in run(checkout, "--docker")]
    assert steps == [
        "compose version",
        "compose --profile=sandbox build ingestion dashboard",
        "compose --profile=sandbox up --detach --wait postgres dashboard sandbox",
        "compose --profile=sandbox run --rm ingestion --bulk",
    ]


def test_a_placeholder_is_no_key(checkout: Path) -> None:
    (checkout / ".env").write_text((ROOT / ".env.example").read_text())
    assert run(checkout, "--docker")[-1].startswith("compose --profile=sandbox run")


def test_with_a_key_there_is_no_sandbox_and_no_password_of_ours(checkout: Path) -> None:
    (checkout / ".env").write_text("API_BASE_URL=https://example.com/api/v1\nAPI_KEY='real'\n")
    calls = run(checkout, "--full-refresh", "--docker")
    assert calls[-1].startswith("compose run --rm ingestion --bulk --full-refresh |")
    assert calls[-1].endswith("| key=unset password=unset")
    assert not any("sandbox" in call for call in calls)


def test_a_password_of_the_user_is_kept_for_made_up_events_too(checkout: Path) -> None:
    assert run(checkout, "--docker", DB_PASSWORD="mine")[-1].endswith("=mine")  # noqa: S106


def test_without_docker_it_says_so(checkout: Path) -> None:
    (checkout / "bin" / "docker").unlink()
    done = subprocess.run(
        ["sh", checkout / "run-ingestion.sh", "--docker"],
        env={"PATH": str(checkout / "bin") + os.pathsep + "/bin:/usr/bin"},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0 or "Compose" in done.stderr:
        pytest.skip("this machine has a Docker in /usr/bin")
    assert done.returncode == 2
    assert "Docker is not installed" in done.stderr


def enter(home: Path, **env: str) -> list[str]:
    """Run the entry point of the container; returns the address and the key of the load."""
    program = home / ".venv" / "bin" / "datasync-ingest"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text('#!/bin/sh\necho "$API_BASE_URL $API_KEY $*"\n')
    program.chmod(0o755)
    script = (ROOT / "docker" / "entrypoint.sh").read_text().replace("/app/", f"'{home}'/")
    done = subprocess.run(
        ["sh", "-c", script, "entrypoint.sh", "--bulk"],
        env={"PATH": f"{home / 'bin'}{os.pathsep}{os.defpath}", **env},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split()


def network(home: Path, *, sandbox: bool) -> None:
    """Say whether the host `sandbox` is found."""
    getent = home / "bin" / "getent"
    getent.write_text(f"#!/bin/sh\nexit {0 if sandbox else 2}\n")
    getent.chmod(0o755)


@pytest.mark.parametrize("key", ["", PLACEHOLDER_KEY])
def test_a_container_without_a_key_takes_the_sandbox_if_it_is_there(
    checkout: Path, key: str
) -> None:
    network(checkout, sandbox=True)
    found = enter(checkout, API_BASE_URL=PLACEHOLDER_URL, API_KEY=key)
    assert found == ["http://sandbox:8765/api/v1", "sandbox-key", "--bulk"]
    network(checkout, sandbox=False)
    assert enter(checkout, API_BASE_URL=PLACEHOLDER_URL, API_KEY=key)[0] == PLACEHOLDER_URL


def test_a_container_with_a_key_asks_the_real_api(checkout: Path) -> None:
    network(checkout, sandbox=True)
    found = enter(checkout, API_BASE_URL="https://example.com/api/v1", API_KEY="real")
    assert found == ["https://example.com/api/v1", "real", "--bulk"]
