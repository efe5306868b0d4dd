"""Settings: their sources, the API and database that they select, and error messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasync_ingestion.config import (
    MELTANO_NAMES,
    NAMES,
    PLACEHOLDER_KEY,
    PLACEHOLDER_URL,
    UNSUPPORTED_NAMES,
    Api,
    merge,
    pipeline_environment,
    plugin_settings,
    resolve,
)
from datasync_ingestion.errors import ConfigError
from datasync_monitor.database import DatabaseSettings
from datasync_monitor.environment import read_env_file

ROOT = Path(__file__).parents[2]
API = {"API_KEY": "k-1", "API_BASE_URL": "https://api.test/api/v1"}
DB = {"DB_HOST": "db.test", "DB_USER": "loader", "DB_PASSWORD": "pw-1"}


def test_uses_sandbox_without_notice_if_nothing_is_set() -> None:
    config = resolve({})
    assert config.uses_sandbox
    assert (config.api, config.database, config.notices) == (None, None, ())
    assert config.page_size == 5000


def test_uses_sandbox_with_notice_if_env_example_was_copied() -> None:
    config = resolve(merge({}, read_env_file(ROOT / ".env.example")))
    assert config.uses_sandbox
    assert config.database is None
    assert config.notices == (
        "API_KEY is the placeholder of .env.example: loading sample events of the local sandbox.",
    )


def test_uses_real_api_and_database() -> None:
    config = resolve({**API, **DB, "DB_PORT": "5433", "DB_NAME": "sales", "BATCH_SIZE": "1000"})
    assert config.api == Api("https://api.test/api/v1", "k-1")
    assert config.database == DatabaseSettings("db.test", 5433, "loader", "pw-1", "sales")
    assert config.page_size == 1000
    assert config.notices == ()


@pytest.mark.parametrize("host", ["db.test", "/var/run/postgresql"])
def test_database_port_and_name_have_defaults_and_password_is_optional(host: str) -> None:
    config = resolve({**API, "DB_HOST": host, "DB_USER": "loader"})
    assert config.database == DatabaseSettings(host, 5432, "loader", "", "events")


def test_real_api_without_database_uses_embedded_one_with_notice() -> None:
    config = resolve(API)
    assert config.api is not None
    assert config.database is None
    assert config.notices == ("DB_HOST is not set: loading into the embedded database.",)


def test_reports_database_settings_that_are_ignored_without_host() -> None:
    (notice,) = resolve({"DB_NAME": "sales", "DB_USER": "loader"}).notices
    assert notice.startswith("DB_USER, DB_NAME are ignored without DB_HOST")


@pytest.mark.parametrize("key", [{}, {"API_KEY": PLACEHOLDER_KEY}])
def test_refuses_sample_events_for_real_database(key: dict[str, str]) -> None:
    message = "sample events are not loaded into the database events at db.test:5432"
    with pytest.raises(ConfigError, match=message):
        resolve({**key, **DB})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "API_KEY is not set: set API_KEY .*`docker compose --profile sandbox up"),
        (DB, "API_KEY is not set: set API_KEY .*`docker compose --profile sandbox up"),
        (API, "DB_HOST is not set, and the image has no database"),
    ],
)
def test_requires_api_and_database_in_container(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(settings, in_container=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"API_KEY": "k"}, "API_BASE_URL is not set"),
        ({"API_KEY": "k", "API_BASE_URL": PLACEHOLDER_URL}, "the placeholder of .env.example"),
        ({**API, "DB_HOST": "db.test"}, "DB_USER is not"),
        ({**API, **DB, "DB_PORT": "x"}, "DB_PORT must be a whole number from 1 to 65535, not 'x'"),
        ({**API, **DB, "DB_PORT": "65536"}, "DB_PORT must be"),
        ({"BATCH_SIZE": "0"}, "BATCH_SIZE must be a whole number from 1 to 5000"),
        ({"BATCH_SIZE": "5001"}, "BATCH_SIZE must be"),
        ({"BATCH_SIZE": "9" * 5000}, "BATCH_SIZE must be"),
        ({"BATCH_SIZE": "\N{ARABIC-INDIC DIGIT FIVE}"}, "BATCH_SIZE must be"),
    ],
)
def test_invalid_setting_is_one_line_and_exit_code_2(
    settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve(settings)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_environment_overrides_env_file_and_empty_value_is_unset() -> None:
    merged = merge(
        {"API_KEY": "outer", "DB_HOST": "", "HOME": "/root", "DB_PASSWORD": " p "},
        {"API_KEY": "inner", "API_BASE_URL": " https://api.test/api/v1 ", "DB_HOST": "db"},
    )
    assert merged == {
        "API_KEY": "outer",
        "API_BASE_URL": "https://api.test/api/v1",
        "DB_HOST": "db",
        "DB_PASSWORD": " p ",
    }


def test_reads_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k-1\n")
    (tmp_path / "password").write_text("p w$ \r\n")
    files = {"API_KEY_FILE": f"{tmp_path}/key", "DB_PASSWORD_FILE": f"{tmp_path}/password"}
    assert merge(files, {}) == {"API_KEY": "k-1", "DB_PASSWORD": "p w$ "}
    # The value wins over the file, the environment over `.env`, and an empty value over nothing.
    assert merge({**files, "API_KEY": "k-2", "DB_PASSWORD": ""}, {})["API_KEY"] == "k-2"
    assert merge(files, {"API_KEY": "k-3"})["API_KEY"] == "k-1"
    assert merge({"API_KEY": "k-4"}, files)["API_KEY"] == "k-4"


def test_refuses_meltano_names_and_suggests_the_supported_ones() -> None:
    with pytest.raises(ConfigError, match=r"TAP_DATASYNC_API_KEY is set, but .* uses API_KEY"):
        merge({"TAP_DATASYNC_API_KEY": "k"}, {})
    with pytest.raises(ConfigError, match="TARGET_POSTGRES_HOST"):
        merge({}, {"TARGET_POSTGRES_HOST": "h"})
    assert set(MELTANO_NAMES.values()) == set(NAMES)


@pytest.mark.parametrize("name", UNSUPPORTED_NAMES)
def test_refuses_settings_for_another_destination(name: str) -> None:
    """With them the target would load into another place than the run monitors."""
    for sources in (({name: "x"}, {}), ({}, {name: "x"})):
        with pytest.raises(ConfigError, match=f"run-ingestion.sh does not support {name}"):
            merge(*sources)


def test_lists_settings_that_meltano_reads_directly() -> None:
    names = ["TARGET_POSTGRES_USE_COPY", "TAP_DATASYNC_LOOKBACK", "HOME"]
    assert plugin_settings(names) == ("TAP_DATASYNC_LOOKBACK", "TARGET_POSTGRES_USE_COPY")


def test_passes_every_setting_so_that_env_file_cannot_override_it() -> None:
    env = pipeline_environment(Api("u", "k"), DatabaseSettings("h", 1, "u", "", "n"), 5000)
    assert set(env) == set(NAMES)
    assert env["BATCH_SIZE"] == "5000"
    assert env["DB_PASSWORD"] == ""


def test_repr_contains_no_secrets() -> None:
    config = resolve({**API, **DB})
    assert "k-1" not in repr(config)
    assert "pw-1" not in repr(config)
