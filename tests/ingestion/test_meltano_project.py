"""The Meltano project through Meltano itself: names, defaults, secrets, no telemetry."""

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
from datasync_ingestion.config import NAMES, UNSUPPORTED_NAMES
from datasync_ingestion.errors import IngestionError, SignalWatcher
from datasync_ingestion.meltano import AttemptSummary, MeltanoState, parse_line

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MELTANO = ROOT / ".venv" / "bin" / "meltano"
PLUGINS = ROOT / ".venv" / "bin"

pytestmark = pytest.mark.skipif(not MELTANO.exists(), reason="run-tests.sh installs Meltano")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project without generated files."""
    place = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "meltano.yml", place)
    shutil.copytree(ROOT / "plugins", place / "plugins")
    return place


@pytest.fixture
def project(copy: Path) -> Iterator[Path]:
    """The same one for all, because Meltano takes long to create its database; without `.env`."""
    yield copy
    (copy / ".env").unlink(missing_ok=True)
    shutil.rmtree(copy / ".sandbox", ignore_errors=True)


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
    requests: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    requests.append(connection.recv(1000).decode(errors="replace").splitlines()[0])

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", requests


def test_uses_running_sandbox_without_settings(project: Path) -> None:
    """With the ports that the sandbox uses."""
    values = {
        "SANDBOX_API_URL": "http://127.0.0.1:1/api/v1",
        "SANDBOX_API_KEY": "k",
        "SANDBOX_DB_HOST": "127.0.0.1",
        "SANDBOX_DB_PORT": "2",
        "SANDBOX_DB_USER": "datasync",
        "SANDBOX_DB_PASSWORD": "pw",
        "SANDBOX_DB_NAME": "events",
    }
    # As `datasync-sandbox up` writes it for Meltano.
    (project / ".sandbox").mkdir()
    (project / ".sandbox" / "meltano.yml").write_text(yaml.safe_dump({"env": values}))
    tap = config(project, "tap-datasync")
    assert (tap["api_url"], tap["page_size"]) == ("http://127.0.0.1:1/api/v1", 5000)
    target = config(project, "target-postgres")
    names = ("host", "port", "user", "password", "database")
    assert [target[name] for name in names] == ["127.0.0.1", 2, "datasync", "pw", "events"]
    assert target["default_target_schema"] == "public"
    # A setting of the user's own wins.
    assert config(project, "tap-datasync", API_BASE_URL="u")["api_url"] == "u"


def test_has_no_addresses_without_settings_and_sandbox(project: Path) -> None:
    """The default ports may be those of the sandbox of another checkout."""
    tap, target = config(project, "tap-datasync"), config(project, "target-postgres")
    assert not {"api_url", "api_key"} & tap.keys()
    assert not {"host", "port", "user", "password", "database"} & target.keys()


def test_env_names_set_settings_and_environment_overrides_env_file(project: Path) -> None:
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
        target = config(project, plugin, DB_PORT="2")
        names = ("host", "port", "user", "password", "database")
        assert [target[name] for name in names] == ["h", 2, "u", "p", "n"]


def test_hides_secrets_when_settings_are_printed(project: Path) -> None:
    env = {"API_KEY": "real-key-123", "DB_PASSWORD": "real-pw-456"}
    for plugin in ("tap-datasync", "target-postgres"):
        done = meltano(project, "config", "print", plugin, **env)
        assert "real-key-123" not in done.stdout + done.stderr
        assert "real-pw-456" not in done.stdout + done.stderr


@pytest.mark.parametrize("password", ["p${HOME}w", "a b", "it's", 'q"q', "$x", "#1", "\\"])
def test_password_from_environment_reaches_target_unchanged(project: Path, password: str) -> None:
    """run-ingestion.sh passes all settings that way; Meltano expands those of `.env`."""
    assert config(project, "target-postgres", DB_PASSWORD=password)["password"] == password


def test_discovery_opens_no_connection(proxy: tuple[str, list[str]]) -> None:
    """No hub, no telemetry, no check for a newer version."""
    address, requests = proxy
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
    env = dict.fromkeys(names, address) | {"MELTANO_HUB_URL": "http://127.0.0.1:1", "NO_PROXY": ""}
    done = meltano(ROOT, "invoke", "tap-datasync", "--discover", **env)
    streams = {stream["tap_stream_id"] for stream in json.loads(done.stdout)["streams"]}
    assert streams == {"events", "rejected_events", "pages"}
    assert requests == []


def about(program: str) -> dict[str, Any]:
    done = subprocess.run(
        [PLUGINS / program, "--about", "--format=json"], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_plugin_lock_matches_installed_target() -> None:
    described = about("target-postgres")
    made = subprocess.run(
        [sys.executable, ROOT / "plugins" / "lock.py"],
        input=json.dumps(described),
        capture_output=True,
        text=True,
        check=True,
    )
    lock = ROOT / "plugins" / "loaders" / "target-postgres--meltanolabs.lock"
    assert lock.read_text() == made.stdout


def test_plugin_definition_has_every_capability_of_tap() -> None:
    described = about("tap-datasync")
    (tap,) = yaml.safe_load((ROOT / "meltano.yml").read_text())["plugins"]["extractors"]
    assert set(tap["capabilities"]) == set(described["capabilities"])


def test_unsupported_settings_are_names_that_meltano_reads(project: Path) -> None:
    """Refusing a name that Meltano ignores would serve no purpose."""
    names = [name for name in UNSUPPORTED_NAMES if name.startswith("TARGET_")]
    values = ("postgresql+psycopg://u@elsewhere/d", "other", "true")
    target = config(project, "target-postgres", **dict(zip(names, values, strict=True)))
    assert target["sqlalchemy_url"] == values[0]
    assert target["default_target_schema"] == values[1]
    assert target["ssh_tunnel"]["enable"] is True


def test_finds_reason_when_meltano_cannot_read_state(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/no/meltano.db"
    env = {**os.environ, "MELTANO_DATABASE_URI": uri, "MELTANO_DATABASE_MAX_RETRIES": "0"}
    with pytest.raises(IngestionError, match=r"failed: .*unable to open database file"):
        MeltanoState(ROOT, env, SignalWatcher()).read()


def test_recognises_unreadable_setting_in_meltano_log(project: Path) -> None:
    env = {**os.environ, "MELTANO_PROJECT_ROOT": str(project), "TAP_DATASYNC_LOOKBACK": "abc"}
    done = subprocess.run(
        [MELTANO, "--log-format=json", "run", "--no-install", "tap-datasync", "target-postgres"],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    summary = AttemptSummary()
    for line in (done.stdout + done.stderr).splitlines():
        summary.add(parse_line(line))
    assert done.returncode == 1
    assert summary.invalid_setting
