"""What the user has set, and which stand-ins are needed for what is not.

The names are those of `.env.example`. The environment wins over `.env`, and an
empty value counts as not set. Nothing here does anything: text in, plan out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datasync_ingestion.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

# What `.env.example` holds until somebody fills it in; a test compares them.
PLACEHOLDER_KEY = "put-your-api-key-here"
PLACEHOLDER_URL = "https://datasync.example.com/api/v1"

NAMES = (
    "API_BASE_URL",
    "API_KEY",
    "BATCH_SIZE",
    "DB_HOST",
    "DB_PORT",
    "DB_USER",
    "DB_PASSWORD",
    "DB_NAME",
)
# Meltano's own names for the same settings. It refuses to run when both are set.
MELTANO_NAMES = {
    "TAP_DATASYNC_API_URL": "API_BASE_URL",
    "TAP_DATASYNC_API_KEY": "API_KEY",
    "TAP_DATASYNC_PAGE_SIZE": "BATCH_SIZE",
    "TARGET_POSTGRES_HOST": "DB_HOST",
    "TARGET_POSTGRES_PORT": "DB_PORT",
    "TARGET_POSTGRES_USER": "DB_USER",
    "TARGET_POSTGRES_PASSWORD": "DB_PASSWORD",
    "TARGET_POSTGRES_DATABASE": "DB_NAME",
}
# Settings of the loader that take the events elsewhere than to where the supervisor looks for
# them: made-up ones, too, would go into a database that somebody named.
UNWATCHED = (
    "TARGET_POSTGRES_SQLALCHEMY_URL",
    "TARGET_POSTGRES_DEFAULT_TARGET_SCHEMA",
    "TARGET_POSTGRES_SSH_TUNNEL_ENABLE",
)
LARGEST_PAGE = 5000
LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Api:
    """The real API. `url` ends in `/api/v1`."""

    url: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Database:
    """A PostgreSQL database. An empty password lets libpq find one (`~/.pgpass`)."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    name: str

    @property
    def place(self) -> str:
        """Where it is, without the password."""
        return f"{self.name} at {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is used for this run.

    Attributes:
        api: The real API; None starts the sandbox's.
        database: The user's database; None starts the embedded one.
        page_size: Events per request; None leaves it to the tap.
        remarks: What the user should know about the choice, a sentence each.
    """

    api: Api | None = None
    database: Database | None = None
    page_size: int | None = None
    remarks: tuple[str, ...] = ()

    @property
    def made_up(self) -> bool:
        """Whether the events come from the sandbox."""
        return self.api is None


def merge(environ: Mapping[str, str], dotenv: Mapping[str, str | None]) -> dict[str, str]:
    """Take the known names from the environment, and from `.env` what is not there."""
    merged = {}
    for name in NAMES:
        value = environ.get(name) or dotenv.get(name) or ""
        if value.strip():
            merged[name] = value.strip()
    return merged


def refuse_meltano_names(environ: Mapping[str, str], dotenv: Mapping[str, str | None]) -> None:
    """Refuse Meltano's names beside ours, before Meltano does it less clearly, or not at all.

    Raises:
        UsageError: One of them is set.
    """
    for name, ours in MELTANO_NAMES.items():
        if name in environ or name in dotenv:
            message = f"{name} is set, but here it is called {ours}: unset the one, set the other."
            raise UsageError(message)
    for name in UNWATCHED:
        if name in environ or name in dotenv:
            message = (
                f"{name} is set, and run-ingestion.sh cannot follow it: "
                "unset it, or use meltano run."
            )
            raise UsageError(message)


def decide(settings: Mapping[str, str]) -> Plan:
    """Decide what is real and what is a stand-in.

    Made-up events never go into a database that the user named, so that the
    sandbox's API and the embedded database are used together or not at all; the
    other way round, real events in the embedded database, is fine.

    Args:
        settings: From `merge`.

    Raises:
        UsageError: Something is missing or wrong.
    """
    page_size = _number(settings, "BATCH_SIZE", LARGEST_PAGE)
    database = _database(settings)
    key, url = settings.get("API_KEY"), settings.get("API_BASE_URL")
    if key is None or key == PLACEHOLDER_KEY:
        said = (
            "API_KEY is not set"
            if key is None
            else "API_KEY is still the placeholder of .env.example"
        )
        if database is not None:
            message = (
                f"{said}, and made-up events are not loaded into the database {database.place}: "
                "set API_KEY, or unset DB_HOST to try it with the sandbox."
            )
            raise UsageError(message)
        remarks = (
            [] if key is None and url is None else [f"{said}: the sandbox stands in for the API."]
        )
        return Plan(page_size=page_size, remarks=(*remarks, *_ignored(settings)))
    if url is None or url == PLACEHOLDER_URL:
        said = "not set" if url is None else "still the placeholder of .env.example"
        message = (
            f"API_KEY is set, but API_BASE_URL is {said}: "
            "set it to the address that ends in /api/v1."
        )
        raise UsageError(message)
    remarks = []
    if database is None:
        remarks = [
            "DB_HOST is not set: the events go into the embedded database.",
            *_ignored(settings),
        ]
    return Plan(api=Api(url, key), database=database, page_size=page_size, remarks=tuple(remarks))


def _database(settings: Mapping[str, str]) -> Database | None:
    host = settings.get("DB_HOST")
    if host is None:
        return None
    if "DB_USER" not in settings:
        message = "DB_HOST is set, but DB_USER is not: set the user to log in as."
        raise UsageError(message)
    return Database(
        host=host,
        port=_number(settings, "DB_PORT", LARGEST_PORT) or 5432,
        user=settings["DB_USER"],
        password=settings.get("DB_PASSWORD", ""),
        name=settings.get("DB_NAME", "events"),
    )


def _ignored(settings: Mapping[str, str]) -> list[str]:
    ignored = [name for name in NAMES if name.startswith("DB_") and name in settings]
    if not ignored:
        return []
    return [
        f"Without DB_HOST the embedded database is used, and {', '.join(ignored)} has no meaning."
    ]


def _number(settings: Mapping[str, str], name: str, largest: int) -> int | None:
    text = settings.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= largest):
        message = f"{name} must be a whole number from 1 to {largest}, not '{text}'."
        raise UsageError(message)
    return int(text)


def environment(api: Api, database: Database, page_size: int | None) -> dict[str, str]:
    """Write the settings out for Meltano and all that it starts.

    Every name is set, so that a value in `.env`, which Meltano reads too, cannot
    come in again.
    """
    return {
        "API_BASE_URL": api.url,
        "API_KEY": api.key,
        "BATCH_SIZE": str(page_size or LARGEST_PAGE),
        "DB_HOST": database.host,
        "DB_PORT": str(database.port),
        "DB_USER": database.user,
        "DB_PASSWORD": database.password,
        "DB_NAME": database.name,
    }
