"""The user's settings, and the API and database that they select: real ones or the sandbox's.

The names are those of `.env.example`. The environment wins over `.env`, and an empty value
counts as unset. The module has no side effects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datasync_monitor.database import DatabaseSettings
from datasync_monitor.environment import read_settings

from datasync_ingestion.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

# The values of `.env.example`; a test compares them.
PLACEHOLDER_KEY = "put-your-api-key-here"
PLACEHOLDER_URL = "https://datasync.example.com/api/v1"

# Meltano's own names of the same settings. Meltano fails when both are set.
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
NAMES = tuple(MELTANO_NAMES.values())
# Settings with which tap or target would use a path or a database that the run does not monitor.
UNSUPPORTED_NAMES = (
    "TAP_DATASYNC_BATCH_CONFIG",
    "TARGET_POSTGRES_SQLALCHEMY_URL",
    "TARGET_POSTGRES_DEFAULT_TARGET_SCHEMA",
    "TARGET_POSTGRES_SSH_TUNNEL_ENABLE",
)
_PLUGIN_PREFIXES = ("TAP_DATASYNC_", "TARGET_POSTGRES_")
LARGEST_PAGE = 5000
LARGEST_PORT = 65535
DEFAULT_PORT = 5432
DEFAULT_DATABASE = "events"
SANDBOX = "sandbox"
"""First word of the source of sample events."""


@dataclass(frozen=True, slots=True)
class Api:
    """An API. `url` ends in `/api/v1`."""

    url: str
    key: str = field(repr=False)


# The sandbox service of docker-compose.yml, as set in docker/entrypoint.sh. The key is compared
# too, because a real API may also have the host name `sandbox`.
_COMPOSE_SANDBOX = Api("http://sandbox:8765/api/v1", "sandbox-key")


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The API, the database and the page size of a run.

    Attributes:
        api: The real API; None for the sandbox's.
        database: The user's database; None for the embedded one.
        page_size: Events per request.
        notices: Messages about the selection, for the user.
        plugin_settings: Names that are set, and that Meltano reads as further settings of tap and
            target.
    """

    api: Api | None = None
    database: DatabaseSettings | None = None
    page_size: int = LARGEST_PAGE
    notices: tuple[str, ...] = ()
    plugin_settings: tuple[str, ...] = ()

    @property
    def uses_sandbox(self) -> bool:
        """Whether the events are the sandbox's sample events."""
        return self.api is None

    def source(self, feed: str) -> str:
        """Return the source of this run's events, as `pipeline_runs` stores it.

        Args:
            feed: Which sample events the sandbox serves; empty without a sandbox.
        """
        if self.api is None:
            return f"{SANDBOX} {feed}".rstrip()
        url = self.api.url.rstrip("/")
        return f"{SANDBOX} {url}" if Api(url, self.api.key) == _COMPOSE_SANDBOX else url


def resolve(
    environ: Mapping[str, str], env_file: Mapping[str, str], *, in_container: bool = False
) -> RunConfig:
    """Select API and database.

    Sample events never go into a database that the user named: the sandbox's API is used with
    the embedded database only. Real events in the embedded database are fine.

    Args:
        environ: The environment.
        env_file: The contents of `.env`.
        in_container: Whether this is the container, which has no sandbox of its own.

    Raises:
        ConfigError: A setting is missing, invalid or not supported here.
        ValueError: The file of a secret cannot be read, or is empty.
    """
    names = {*environ, *env_file}
    _refuse_other_names(names)
    settings = read_settings(NAMES, environ, env_file)
    page_size = _number(settings, "BATCH_SIZE", LARGEST_PAGE) or LARGEST_PAGE
    database = _database(settings)
    key, url = settings.get("API_KEY"), settings.get("API_BASE_URL")
    api: Api | None = None
    notices: list[str] = []
    if key is None or key == PLACEHOLDER_KEY:
        problem = f"API_KEY is {'not set' if key is None else 'the placeholder of .env.example'}"
        if in_container:
            message = (
                f"{problem}: set API_KEY and API_BASE_URL in .env, or load sample events with "
                "`docker compose --profile sandbox up`."
            )
            raise ConfigError(message)
        if database is not None:
            message = (
                f"{problem}, and sample events are not loaded into the database "
                f"{database.location}: set API_KEY, or unset DB_HOST to use the sandbox."
            )
            raise ConfigError(message)
        if key or url:
            notices = [f"{problem}: loading sample events of the local sandbox."]
    elif url is None or url == PLACEHOLDER_URL:
        problem = "not set" if url is None else "the placeholder of .env.example"
        message = (
            f"API_KEY is set, but API_BASE_URL is {problem}: "
            "set it to the address that ends in /api/v1."
        )
        raise ConfigError(message)
    else:
        api = Api(url, key)
        if database is None and in_container:
            message = (
                "DB_HOST is not set, and the image has no database: set DB_HOST and the other DB_*."
            )
            raise ConfigError(message)
        if database is None:
            notices = ["DB_HOST is not set: loading into the embedded database."]
    if database is None:
        notices += _ignored(settings)
    plugin_settings = sorted(name for name in names if name.startswith(_PLUGIN_PREFIXES))
    return RunConfig(api, database, page_size, tuple(notices), tuple(plugin_settings))


def _refuse_other_names(names: set[str]) -> None:
    for name, ours in MELTANO_NAMES.items():
        if name in names:
            message = f"{name} is set, but run-ingestion.sh uses {ours}: rename it."
            raise ConfigError(message)
    for name in UNSUPPORTED_NAMES:
        if name in names:
            message = f"run-ingestion.sh does not support {name}: unset it."
            raise ConfigError(message)


def _database(settings: Mapping[str, str]) -> DatabaseSettings | None:
    host = settings.get("DB_HOST")
    if host is None:
        return None
    if "DB_USER" not in settings:
        message = "DB_HOST is set, but DB_USER is not: set the user to log in as."
        raise ConfigError(message)
    return DatabaseSettings(
        host=host,
        port=_number(settings, "DB_PORT", LARGEST_PORT) or DEFAULT_PORT,
        user=settings["DB_USER"],
        password=settings.get("DB_PASSWORD", ""),
        name=settings.get("DB_NAME", DEFAULT_DATABASE),
    )


def _ignored(settings: Mapping[str, str]) -> list[str]:
    names = [name for name in NAMES if name.startswith("DB_") and name in settings]
    if not names:
        return []
    verb = "is" if len(names) == 1 else "are"
    return [f"{', '.join(names)} {verb} ignored without DB_HOST: using the embedded database."]


def _number(settings: Mapping[str, str], name: str, largest: int) -> int | None:
    text = settings.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= largest):
        message = f"{name} must be a whole number from 1 to {largest}, not '{text[:40]}'."
        raise ConfigError(message)
    return int(text)


def pipeline_environment(api: Api, database: DatabaseSettings, page_size: int) -> dict[str, str]:
    """Return the settings as environment variables for Meltano, tap and target.

    Every name is set, also to an empty value: Meltano reads `.env` too, with other rules for
    quotes, and its environment wins over that file.
    """
    return {
        "API_BASE_URL": api.url,
        "API_KEY": api.key,
        "BATCH_SIZE": str(page_size),
        "DB_HOST": database.host,
        "DB_PORT": str(database.port),
        "DB_USER": database.user,
        "DB_PASSWORD": database.password,
        "DB_NAME": database.name,
    }
