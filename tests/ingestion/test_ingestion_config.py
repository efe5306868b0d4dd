"""Settings: the API and database that they select, the source of events, and error messages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from datasync_ingestion.config import (
    NAMES,
    PLACEHOLDER_KEY,
    PLACEHOLDER_URL,
    UNSUPPORTED_NAMES,
    Api,
    RunConfig,
    pipeline_environment,
    resolve,
)
from datasync_ingestion.errors import ConfigError
from datasync_monitor.database import DatabaseSettings
from datasync_monitor.environment import read_env_file

ROOT = Path(__file__).parents[2]
API = {"API_KEY": "k-1", "API_BASE_URL": "https://api.test/api/v1"}
DB = {"DB_HOST": "db.test", "DB_USER": "loader", "DB_PASSWORD": "pw-1"}
PLACEHOLDER = {"API_KEY": PLACEHOLDER_KEY}
NO_SANDBOX = "set API_KEY .*`docker compose --profile sandbox up"


def test_uses_sandbox_without_notice_if_nothing_is_set() -> None:
    config = resolve({}, {})
    assert config == RunConfig(None, None, 5000)
    assert config.uses_sandbox


def test_uses_sandbox_with_notice_if_env_example_was_copied() -> None:
    config = resolve({}, read_env_file(ROOT / ".env.example"))
    assert config.uses_sandbox
    assert config.database is None
    assert config.notices == (
        "API_KEY is the placeholder of .env.example: loading sample events of the local sandbox.",
    )


def test_uses_real_api_and_database() -> None:
    config = resolve({**API, **DB, "DB_PORT": "5433", "DB_NAME": "sales"}, {"BATCH_SIZE": "1000"})
    database = DatabaseSettings("db.test", 5433, "loader", "pw-1", "sales")
    assert config == RunConfig(Api("https://api.test/api/v1", "k-1"), database, 1000)
    assert "k-1" not in repr(config)
    assert "pw-1" not in repr(config)


@pytest.mark.parametrize("host", ["db.test", "/var/run/postgresql"])
def test_database_port_and_name_have_defaults_and_password_is_optional(host: str) -> None:
    config = resolve({**API, "DB_HOST": host, "DB_USER": "loader"}, {})
    assert config.database == DatabaseSettings(host, 5432, "loader", "", "events")


def test_real_api_without_database_uses_embedded_one_with_notice() -> None:
    config = resolve({}, API)
    assert config.api is not None
    assert config.database is None
    assert config.notices == ("DB_HOST is not set: loading into the embedded database.",)


def test_reports_database_settings_that_are_ignored_without_host() -> None:
    (notice,) = resolve({"DB_NAME": "sales", "DB_USER": "loader"}, {}).notices
    assert notice.startswith("DB_USER, DB_NAME are ignored without DB_HOST")


def test_secret_file_in_environment_overrides_env_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k-2\n")
    config = resolve({"API_KEY_FILE": f"{tmp_path}/key"}, API)
    assert config.api is not None
    assert config.api.key == "k-2"


@pytest.mark.parametrize(
    ("settings", "in_container", "message"),
    [
        ({"API_KEY": "k"}, False, "API_BASE_URL is not set"),
        ({**API, "API_BASE_URL": PLACEHOLDER_URL}, False, "the placeholder of .env.example"),
        ({**API, "DB_HOST": "db.test"}, False, "DB_USER is not"),
        ({**API, **DB, "DB_PORT": "x"}, False, "DB_PORT must be .* from 1 to 65535, not 'x'"),
        ({**API, **DB, "DB_PORT": "65536"}, False, "DB_PORT must be"),
        ({"BATCH_SIZE": "0"}, False, "BATCH_SIZE must be a whole number from 1 to 5000"),
        ({"BATCH_SIZE": "5001"}, False, "BATCH_SIZE must be"),
        ({"BATCH_SIZE": "9" * 5000}, False, "BATCH_SIZE must be"),
        ({"BATCH_SIZE": "\N{ARABIC-INDIC DIGIT FIVE}"}, False, "BATCH_SIZE must be"),
        # Sample events never go into a real database.
        (DB, False, "not set, and sample events are not loaded into .* events at db.test:5432"),
        ({**PLACEHOLDER, **DB}, False, ".env.example, and sample events are not loaded"),
        # A container has neither a sandbox nor a database of its own.
        ({}, True, f"API_KEY is not set: {NO_SANDBOX}"),
        (DB, True, f"API_KEY is not set: {NO_SANDBOX}"),
        (API, True, "DB_HOST is not set, and the image has no database"),
        # Meltano's own names of these settings; it fails when both are set.
        ({"TAP_DATASYNC_API_KEY": "k"}, False, "TAP_DATASYNC_API_KEY is set, but .* uses API_KEY"),
        ({"TARGET_POSTGRES_HOST": "h"}, False, "TARGET_POSTGRES_HOST is set, .* uses DB_HOST"),
        # With these the target would load into another place than the run monitors.
        *(({name: "x"}, False, f"does not support {name}") for name in UNSUPPORTED_NAMES),
    ],
)
def test_invalid_setting_is_one_line_and_exit_code_2(
    settings: dict[str, str],
    in_container: bool,  # noqa: FBT001 - a case of the table
    message: str,
) -> None:
    for sources in ((settings, {}), ({}, settings)):
        with pytest.raises(ConfigError, match=message) as caught:
            resolve(*sources, in_container=in_container)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


def test_lists_settings_that_meltano_reads_directly() -> None:
    config = resolve({"TARGET_POSTGRES_USE_COPY": "x"}, {"TAP_DATASYNC_LOOKBACK": "1", "HOME": "/"})
    assert config.plugin_settings == ("TAP_DATASYNC_LOOKBACK", "TARGET_POSTGRES_USE_COPY")


def test_passes_every_setting_so_that_env_file_cannot_override_it() -> None:
    env = pipeline_environment(Api("u", "k"), DatabaseSettings("h", 1, "u", "", "n"), 5000)
    assert set(env) == set(NAMES)
    assert env["BATCH_SIZE"] == "5000"
    assert env["DB_PASSWORD"] == ""


def test_source_of_sample_events_is_their_feed() -> None:
    assert RunConfig().source("") == "sandbox"
    assert RunConfig().source("events=20 seed=3") == "sandbox events=20 seed=3"


@pytest.mark.parametrize(
    ("url", "key", "source"),
    [
        ("https://a.test/api/v1/", "k", "https://a.test/api/v1"),
        # Address and key have to be those that Compose sets.
        ("http://sandbox:8765/api/v1", "a-real-key", "http://sandbox:8765/api/v1"),
        ("http://sandbox:80/api/v1", "sandbox-key", "http://sandbox:80/api/v1"),
    ],
)
def test_source_of_real_events_is_api_address(url: str, key: str, source: str) -> None:
    assert RunConfig(Api(url, key)).source("") == source


def test_compose_sandbox_serves_sample_events() -> None:
    entrypoint = (ROOT / "docker" / "entrypoint.sh").read_text()
    found = re.search(r"API_BASE_URL=(\S+) API_KEY=(\S+)", entrypoint)
    assert found
    assert RunConfig(Api(found[1], found[2])).source("") == f"sandbox {found[1]}"
