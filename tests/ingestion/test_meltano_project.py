"""The Meltano project, asked through Meltano itself: names, defaults, secrets, and no hub."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from datasync_ingestion.errors import IngestionError
from datasync_ingestion.interrupts import Interrupts
from datasync_ingestion.settings import NAMES, UNWATCHED
from datasync_ingestion.states import MeltanoState

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MELTANO = ROOT / ".venv" / "bin" / "meltano"
PLUGINS = ROOT / ".venv" / "bin"

pytestmark = pytest.mark.skipif(not MELTANO.exists(), reason="run-tests.sh installs Meltano")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project without anything that a checkout makes for itself."""
    place = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "meltano.yml", place)
    shutil.copytree(ROOT / "plugins", place / "plugins")
    return place


@pytest.fixture
def project(copy: Path) -> Iterator[Path]:
    """The same one for all, because Meltano takes long to make its database; without `.env`."""
    yield copy
    (copy / ".env").unlink(missing_ok=True)


def meltano(project: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    return subprocess.run(
        [MELTANO, "--log-format=plain", *words],
        cwd=project,
        env={**clean, "MELTANO_PROJECT_ROOT": str(project), **env},
        capture_output=True,
        text=True,
        check=True,
    )


def config(project: Path, plugin: str, **env: str) -> dict[str, Any]:
    """The config file that the plugin would get."""
    done = meltano(project, "invoke", "--no-install", "--dump=config", plugin, **env)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    """An HTTP proxy that refuses everything, and the first line of each request."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(1000).decode(errors="replace").splitlines()[0])

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked


def test_with_nothing_set_both_ends_are_the_sandbox(project: Path) -> None:
    tap = config(project, "tap-datasync")
    assert tap["api_url"] == "http://127.0.0.1:8765/api/v1"
    assert tap["api_key"] == "sandbox-key"
    assert tap["page_size"] == 5000
    loader = config(project, "target-postgres")
    place = {name: loader[name] for name in ("host", "port", "user", "password", "database")}
    assert place == {
        "host": "127.0.0.1",
        "port": 54329,
        "user": "datasync",
        "password": "sandbox",
        "database": "events",
    }
    assert loader["default_target_schema"] == "public"


def test_the_fixed_names_set_the_settings_and_the_environment_wins(project: Path) -> None:
    (project / ".env").write_text(
        "API_BASE_URL=https://a.test/api/v1\nAPI_KEY=inner\nBATCH_SIZE=100\n"
        "DB_HOST=h\nDB_PORT=1\nDB_USER=u\nDB_PASSWORD=p\nDB_NAME=n\n"
    )
    tap = config(project, "tap-datasync", API_KEY="outer")
    assert (tap["api_url"], tap["api_key"], tap["page_size"]) == (
        "https://a.test/api/v1",
        "outer",
        100,
    )
    for plugin in ("target-postgres", "target-postgres-stock"):
        loader = config(project, plugin, DB_PORT="2")
        names = ("host", "port", "user", "password", "database")
        assert [loader[name] for name in names] == ["h", 2, "u", "p", "n"]


def test_secrets_are_hidden_when_settings_are_shown(project: Path) -> None:
    env = {"API_KEY": "real-key-123", "DB_PASSWORD": "real-pw-456"}
    for plugin in ("tap-datasync", "target-postgres"):
        done = meltano(project, "config", "print", plugin, **env)
        assert "real-key-123" not in done.stdout + done.stderr
        assert "real-pw-456" not in done.stdout + done.stderr


def test_the_bulk_lane_can_be_turned_on_from_outside(project: Path) -> None:
    batch = {"encoding": {"format": "jsonl"}, "storage": {"root": "file:///x"}}
    tap = config(project, "tap-datasync", TAP_DATASYNC_BATCH_CONFIG=json.dumps(batch))
    assert tap["batch_config"] == batch
    assert "batch_config" not in config(project, "tap-datasync")


def test_discovery_needs_nobody_but_us(proxy: tuple[str, list[str]]) -> None:
    """No hub, no telemetry, no look for a newer version: not one connection goes out."""
    address, asked = proxy
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    env = dict.fromkeys(names, address) | {"MELTANO_HUB_URL": "http://127.0.0.1:1", "NO_PROXY": ""}
    done = meltano(ROOT, "invoke", "tap-datasync", "--discover", **env)
    streams = {stream["tap_stream_id"] for stream in json.loads(done.stdout)["streams"]}
    assert streams == {"events", "rejected_events", "pages"}
    assert asked == []


def about(program: str) -> dict[str, Any]:
    done = subprocess.run(
        [PLUGINS / program, "--about", "--format=json"], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_lock_of_the_loader_is_what_the_loader_says() -> None:
    said = about("target-postgres")
    made = subprocess.run(
        [sys.executable, ROOT / "plugins" / "lock.py"],
        input=json.dumps(said),
        capture_output=True,
        text=True,
        check=True,
    )
    lock = ROOT / "plugins" / "loaders" / "target-postgres--meltanolabs.lock"
    assert lock.read_text() == made.stdout


def test_meltano_knows_every_capability_of_the_tap() -> None:
    said = about("tap-datasync")
    (tap,) = yaml.safe_load((ROOT / "meltano.yml").read_text())["plugins"]["extractors"]
    assert set(tap["capabilities"]) == set(said["capabilities"])


def test_what_is_refused_is_what_meltano_would_hand_on(project: Path) -> None:
    """A name that Meltano does not know would be refused for nothing."""
    values = ("postgresql+psycopg://u@elsewhere/d", "other", "true")
    loader = config(project, "target-postgres", **dict(zip(UNWATCHED, values, strict=True)))
    assert loader["sqlalchemy_url"] == values[0]
    assert loader["default_target_schema"] == values[1]
    assert loader["ssh_tunnel"]["enable"] is True


def test_why_the_state_cannot_be_read_is_found_in_what_meltano_says(tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path}/no/meltano.db"
    env = {**os.environ, "MELTANO_DATABASE_URI": place, "MELTANO_DATABASE_MAX_RETRIES": "0"}
    with pytest.raises(IngestionError, match=r"failed: .*unable to open database file"):
        MeltanoState(ROOT, env, Interrupts()).read()
