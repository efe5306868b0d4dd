"""What is set decides what is real: every combination, and every mistake in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasync_ingestion.errors import UsageError
from datasync_ingestion.settings import (
    MELTANO_NAMES,
    NAMES,
    PLACEHOLDER_KEY,
    PLACEHOLDER_URL,
    UNWATCHED,
    Api,
    Database,
    decide,
    environment,
    merge,
    refuse_meltano_names,
)
from dotenv import dotenv_values

ROOT = Path(__file__).parents[2]
API = {"API_KEY": "k-1", "API_BASE_URL": "https://api.test/api/v1"}
DB = {"DB_HOST": "db.test", "DB_USER": "loader", "DB_PASSWORD": "pw-1"}


def test_with_nothing_set_the_sandbox_is_used_without_a_word() -> None:
    plan = decide({})
    assert plan.made_up
    assert (plan.api, plan.database, plan.remarks) == (None, None, ())


def test_a_copied_example_is_told_apart() -> None:
    """Copying `.env.example` and nothing else is a way to try it, and is said so."""
    plan = decide(merge({}, dotenv_values(ROOT / ".env.example")))
    assert plan.made_up
    assert plan.database is None
    assert plan.remarks == (
        "API_KEY is still the placeholder of .env.example: the sandbox stands in for the API.",
    )


def test_real_api_and_database_are_used_and_no_stand_in_is() -> None:
    plan = decide({**API, **DB, "DB_PORT": "5433", "DB_NAME": "sales", "BATCH_SIZE": "1000"})
    assert plan.api == Api("https://api.test/api/v1", "k-1")
    assert plan.database == Database("db.test", 5433, "loader", "pw-1", "sales")
    assert plan.page_size == 1000
    assert plan.remarks == ()


def test_port_and_name_of_the_database_have_defaults_and_a_password_is_not_needed() -> None:
    plan = decide({**API, "DB_HOST": "db.test", "DB_USER": "loader"})
    assert plan.database == Database("db.test", 5432, "loader", "", "events")


def test_a_real_api_without_a_database_loads_into_the_embedded_one_and_says_so() -> None:
    plan = decide(API)
    assert plan.api is not None
    assert plan.database is None
    assert plan.remarks == ("DB_HOST is not set: the events go into the embedded database.",)


def test_names_of_the_database_without_its_host_are_said_to_mean_nothing() -> None:
    (remark,) = decide({"DB_NAME": "sales", "DB_USER": "loader"}).remarks
    assert "DB_USER, DB_NAME has no meaning" in remark


@pytest.mark.parametrize("key", [{}, {"API_KEY": PLACEHOLDER_KEY}])
def test_made_up_events_never_go_into_a_database_that_was_named(key: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"made-up events are not loaded into the database events"):
        decide({**key, **DB})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"API_KEY": "k"}, "API_BASE_URL is not set"),
        ({"API_KEY": "k", "API_BASE_URL": PLACEHOLDER_URL}, "still the placeholder"),
        ({**API, "DB_HOST": "db.test"}, "DB_USER is not"),
        ({**API, **DB, "DB_PORT": "x"}, "DB_PORT must be a whole number from 1 to 65535, not 'x'"),
        ({**API, **DB, "DB_PORT": "65536"}, "DB_PORT must be"),
        ({"BATCH_SIZE": "0"}, "BATCH_SIZE must be a whole number from 1 to 5000"),
        ({"BATCH_SIZE": "5001"}, "BATCH_SIZE must be"),
        ({"BATCH_SIZE": "\N{ARABIC-INDIC DIGIT FIVE}"}, "BATCH_SIZE must be"),
    ],
)
def test_mistakes_end_in_one_sentence(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        decide(settings)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_the_environment_wins_over_the_file_and_an_empty_value_is_not_set() -> None:
    merged = merge(
        {"API_KEY": "outer", "DB_HOST": "", "HOME": "/root"},
        {
            "API_KEY": "inner",
            "API_BASE_URL": " https://api.test/api/v1 ",
            "DB_HOST": "db",
            "X": "y",
        },
    )
    assert merged == {
        "API_KEY": "outer",
        "API_BASE_URL": "https://api.test/api/v1",
        "DB_HOST": "db",
    }


def test_meltanos_own_names_are_refused_with_the_name_to_use() -> None:
    with pytest.raises(
        UsageError, match="TAP_DATASYNC_API_KEY is set, but here it is called API_KEY"
    ):
        refuse_meltano_names({"TAP_DATASYNC_API_KEY": "k"}, {})
    with pytest.raises(UsageError, match="TARGET_POSTGRES_HOST"):
        refuse_meltano_names({}, {"TARGET_POSTGRES_HOST": "h"})
    refuse_meltano_names({"API_KEY": "k"}, {"DB_HOST": "h"})
    assert set(MELTANO_NAMES.values()) == set(NAMES)


@pytest.mark.parametrize("name", UNWATCHED)
def test_what_takes_the_events_elsewhere_is_refused(name: str) -> None:
    """The supervisor would look at one database, and the loader fill another."""
    for places in (({name: "x"}, {}), ({}, {name: "x"})):
        with pytest.raises(
            UsageError, match=f"^{name} is set, and run-ingestion.sh cannot"
        ) as caught:
            refuse_meltano_names(*places)
        assert caught.value.exit_code == 2


def test_every_name_is_handed_on_so_that_the_file_cannot_come_in_again() -> None:
    env = environment(Api("u", "k"), Database("h", 1, "u", "", "n"), None)
    assert set(env) == set(NAMES)
    assert env["BATCH_SIZE"] == "5000"
    assert env["DB_PASSWORD"] == ""


def test_secrets_do_not_show_when_settings_are_printed() -> None:
    plan = decide({**API, **DB})
    assert "k-1" not in repr(plan)
    assert "pw-1" not in repr(plan)
    assert plan.database is not None
    assert plan.database.place == "events at db.test:5432"
