"""`run-ingestion.sh --docker`: what it asks of Compose, its signals and its exit codes.

Docker is a script here. `docker/try.sh` tries the same on a real engine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from datasync_ingestion.config import PLACEHOLDER_KEY

ROOT = Path(__file__).resolve().parents[2]

# Logs how it is called; answers what docker/run.sh asks of the files beside it.
DOCKER = """#!/bin/sh
cd "$(dirname -- "$0")"
echo "$* | options=${INGESTION_OPTIONS-} events=${SANDBOX_EVENTS-}" >>calls
case "$*" in
"compose config ingestion") cat config ;;
"compose ps --quiet --status running ingestion") cat running ;;
"compose ps --all --quiet ingestion") echo id-of-container ;;
"logs --follow id-of-container") while [ -e loading ]; do sleep 0.05; done ;;
"wait id-of-container") cat exit-code ;;
"compose stop ingestion") rm loading ;;
esac
"""


@dataclass(frozen=True)
class Checkout:
    """The scripts of a checkout, beside a fake Docker."""

    home: Path

    @property
    def bin(self) -> Path:
        return self.home / "bin"

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", self.home / "run-ingestion.sh", "--docker", *options],
            env={"PATH": f"{self.bin}{os.pathsep}{os.defpath}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str) -> tuple[int, str]:
        """Run to the end; returns the exit code and what went to stderr."""
        process = self.start(*options)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors

    def calls(self) -> list[str]:
        return (self.bin / "calls").read_text().splitlines()

    def commands(self) -> list[str]:
        return [call.partition(" | ")[0] for call in self.calls()]

    def wait_for(self, process: subprocess.Popen[str], command: str) -> None:
        """Wait until Docker is called so."""
        deadline = time.monotonic() + 60
        while command not in self.commands():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def add(self, case: str) -> None:
        """Let Docker do something else for one command."""
        (self.bin / "docker").write_text(DOCKER.replace("esac", f"{case} ;;\nesac"))

    def configure(self, key: str = '""', key_file: str = '""', database: str = "postgres") -> None:
        """Set what Compose finds in .env and the environment."""
        values = {
            "API_KEY": key,
            "API_KEY_FILE": key_file,
            "DB_HOST": database,
            "DB_NAME": "events",
        }
        lines = [f"      {name}: {value}\n" for name, value in values.items()]
        (self.bin / "config").write_text("".join(["    environment:\n", *lines]))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    home = tmp_path / "check out"
    (home / "docker").mkdir(parents=True)
    for name in ("run-ingestion.sh", "docker/run.sh"):
        (home / name).write_text((ROOT / name).read_text())
    made = Checkout(home)
    made.bin.mkdir()
    (made.bin / "docker").write_text(DOCKER)
    (made.bin / "docker").chmod(0o755)
    (made.bin / "calls").write_text("")
    (made.bin / "running").write_text("")
    (made.bin / "exit-code").write_text("0\n")
    made.configure()
    return made


@pytest.mark.parametrize("key", ['""', PLACEHOLDER_KEY])
def test_starts_the_sandbox_without_a_key(checkout: Checkout, key: str) -> None:
    checkout.configure(key)
    assert checkout.run() == (0, "")
    assert checkout.commands()[2:] == [
        "compose config ingestion",
        "compose ps --quiet --status running ingestion",
        "compose --progress quiet build ingestion dashboard",
        "compose --progress quiet up --detach --wait dashboard sandbox",
        "compose port dashboard 8501",
        "compose rm --force ingestion",
        "compose --progress quiet up --detach --no-deps --no-recreate ingestion",
        "compose ps --all --quiet ingestion",
        "logs --follow id-of-container",
        "wait id-of-container",
    ]


@pytest.mark.parametrize(
    ("key", "key_file"), [("secret", '""'), ('""', "/run/secrets/api_key"), (PLACEHOLDER_KEY, "/x")]
)
def test_starts_no_sandbox_with_a_key(checkout: Checkout, key: str, key_file: str) -> None:
    checkout.configure(key, key_file)
    assert checkout.run("--full-refresh", "--verbose") == (0, "")
    assert "compose --progress quiet up --detach --wait dashboard" in checkout.commands()
    assert "options= --full-refresh --verbose" in checkout.calls()[-1]


def test_returns_the_exit_code_of_the_load(checkout: Checkout) -> None:
    (checkout.bin / "exit-code").write_text("3\n")
    assert checkout.run()[0] == 3


@pytest.mark.parametrize("options", [["--events", "500"], ["--events=500"]])
def test_hands_the_number_of_sample_events_on(checkout: Checkout, options: list[str]) -> None:
    assert checkout.run(*options) == (0, "")
    assert "events=500" in checkout.calls()[-1]


@pytest.mark.parametrize(
    ("configured", "options", "message"),
    [
        ({"key": "secret"}, ["--events"], "--events needs a number"),
        ({"key": "secret"}, ["--limit", "5"], "--limit does not go with --docker"),
        (
            {"key": "secret"},
            ["--events", "500"],
            "--events is an option of the sandbox, but API_KEY is set",
        ),
        # Addresses that mean the container.
        ({"key": "secret", "database": "localhost"}, [], "host.docker.internal"),
        ({"key": "secret", "database": "127.0.0.1"}, [], "host.docker.internal"),
        # Sample events in a database of one's own.
        ({"database": "db.example.com"}, [], "empty DB_HOST"),
    ],
)
def test_refuses_what_would_have_no_or_the_wrong_effect(
    checkout: Checkout, configured: dict[str, str], options: list[str], message: str
) -> None:
    checkout.configure(**configured)
    code, errors = checkout.run(*options)
    assert code == 2
    assert message in errors
    assert "secret" not in errors


def test_stops_the_containers(checkout: Checkout) -> None:
    assert checkout.run("--stop-sandbox") == (0, "")
    assert checkout.commands()[-1] == "compose --profile sandbox --profile metrics stop"


def test_names_the_ports_when_the_services_do_not_start(checkout: Checkout) -> None:
    checkout.add('*" up --detach --wait "*) exit 17')
    code, errors = checkout.run()
    assert code == 1
    assert "set DB_PORT or DASHBOARD_PORT to a free one" in errors
    assert not any("--no-recreate ingestion" in command for command in checkout.commands())


def test_refuses_a_second_load(checkout: Checkout) -> None:
    (checkout.bin / "running").write_text("0123456789ab\n")
    code, errors = checkout.run()
    assert code == 75
    assert "docker compose stop ingestion" in errors
    assert not any(" up " in command for command in checkout.commands())


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_load(checkout: Checkout, number: signal.Signals) -> None:
    (checkout.bin / "loading").touch()
    process = checkout.start()
    try:
        checkout.wait_for(process, "logs --follow id-of-container")
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert checkout.commands()[-1] == "compose stop ingestion"


def test_a_signal_during_the_build_ends_it(checkout: Checkout) -> None:
    checkout.add('*" build ingestion dashboard") exec sleep 60')
    process = checkout.start()
    try:
        checkout.wait_for(process, "compose --progress quiet build ingestion dashboard")
        process.terminate()
        process.wait(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "compose stop ingestion" not in checkout.commands()


def test_names_what_is_missing_without_docker(checkout: Checkout) -> None:
    # Only what the scripts themselves need, so that no Docker of the machine is found.
    (checkout.bin / "docker").unlink()
    (checkout.bin / "dirname").symlink_to("/usr/bin/dirname")
    done = subprocess.run(
        ["/bin/sh", checkout.home / "docker" / "run.sh"],
        env={"PATH": str(checkout.bin)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Docker is not installed" in done.stderr


@pytest.mark.parametrize(
    ("sandbox", "env", "found"),
    [
        (True, {"API_KEY": ""}, "http://sandbox:8765/api/v1 sandbox-key"),
        (True, {"API_KEY": PLACEHOLDER_KEY}, "http://sandbox:8765/api/v1 sandbox-key"),
        # With a key, or without a sandbox, or with a database of one's own: as it was set.
        (True, {"API_KEY": "secret"}, "https://example.com/api/v1 secret"),
        (False, {"API_KEY": PLACEHOLDER_KEY}, f"https://example.com/api/v1 {PLACEHOLDER_KEY}"),
        (True, {"API_KEY_FILE": "/run/secrets/api_key"}, "https://example.com/api/v1 none"),
        (True, {"DB_HOST": "db.example.com"}, "https://example.com/api/v1 none"),
    ],
)
def test_container_takes_the_sandbox_without_a_key(
    checkout: Checkout, env: dict[str, str], found: str, *, sandbox: bool
) -> None:
    for name, text in {
        "datasync-ingest": 'echo "$API_BASE_URL" "${API_KEY:-none}" "$@"',
        "getent": f"exit {0 if sandbox else 2}",
    }.items():
        (checkout.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (checkout.bin / name).chmod(0o755)
    done = subprocess.run(
        ["sh", ROOT / "docker" / "entrypoint.sh", "--full-refresh"],
        env={
            "PATH": f"{checkout.bin}{os.pathsep}{os.defpath}",
            "API_BASE_URL": "https://example.com/api/v1",
            "DB_HOST": "postgres",
            **env,
        },
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{found} --full-refresh\n"
