"""README, docs, .env.example, meltano.yml, Compose and the programs say the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasync_ingestion.config import (
    LARGEST_PAGE,
    MELTANO_NAMES,
    NAMES,
    PLACEHOLDER_KEY,
    PLACEHOLDER_URL,
)
from docs_helpers import ROOT

BIN = Path(sys.executable).parent
MELTANO = yaml.safe_load((ROOT / "meltano.yml").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def env_example() -> dict[str, str]:
    """Return all names of .env.example, those that are commented out too."""
    pairs = re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    return dict(pairs)


def plugin(kind: str, name: str) -> dict[str, Any]:
    return next(found for found in MELTANO["plugins"][kind] if found["name"] == name)


def about(program: str) -> dict[str, Any]:
    said = subprocess.run(
        [BIN / program, "--about", "--format=json"], check=True, capture_output=True, text=True
    ).stdout
    return json.loads(said)["settings"]["properties"]


def test_env_example_has_every_name_and_the_placeholders_that_are_told_apart() -> None:
    example = env_example()
    assert set(NAMES) <= set(example)
    assert example["API_KEY"] == PLACEHOLDER_KEY
    assert example["API_BASE_URL"] == PLACEHOLDER_URL
    assert example["BATCH_SIZE"] == str(LARGEST_PAGE)


def test_meltano_maps_every_name_of_env_example() -> None:
    tap, loader = plugin("extractors", "tap-datasync"), plugin("loaders", "target-postgres")
    mapped = {}
    for prefix, found in (("TAP_DATASYNC_", tap), ("TARGET_POSTGRES_", loader)):
        for setting in found["settings"]:
            for alias in setting.get("env_aliases", []):
                mapped[prefix + setting["name"].upper()] = alias
    assert mapped == MELTANO_NAMES


def test_meltano_knows_no_setting_that_the_tap_does_not() -> None:
    known = about("tap-datasync")
    for setting in plugin("extractors", "tap-datasync")["settings"]:
        assert setting["name"] in known


def test_every_own_setting_of_the_tap_is_in_meltano() -> None:
    from tap_datasync.config import SETTINGS  # noqa: PLC0415

    declared = {setting["name"] for setting in plugin("extractors", "tap-datasync")["settings"]}
    assert set(SETTINGS.to_dict()["properties"]) <= declared


def test_secrets_are_marked_as_such() -> None:
    for kind, name, setting in (
        ("extractors", "tap-datasync", "api_key"),
        ("loaders", "target-postgres", "password"),
    ):
        found = next(s for s in plugin(kind, name)["settings"] if s["name"] == setting)
        assert found["sensitive"] is True


def test_defaults_of_meltano_are_those_of_the_tap() -> None:
    known = about("tap-datasync")
    for setting in plugin("extractors", "tap-datasync")["settings"]:
        default = known[setting["name"]].get("default")
        if default is not None and "value" in setting:
            assert setting["value"] == default, setting["name"]


def test_help_names_every_setting() -> None:
    said = subprocess.run(
        ["sh", ROOT / "run-ingestion.sh", "--help"], check=True, capture_output=True, text=True
    ).stdout
    for name in NAMES:
        assert name in said


def test_generated_pages_are_fresh_whatever_database_the_environment_names() -> None:
    url = "postgresql+psycopg://nobody:none@127.0.0.1:9/somebodys"
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        env={**os.environ, "TARGET_POSTGRES_SQLALCHEMY_URL": url},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_settings_has_only_what_meltano_hands_on_and_the_programs_heed() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    tap, loader = (
        re.findall(r"^\| ([a-z_+.]+) \|", part, re.MULTILINE) for part in page.split("\n## ")[1:]
    )
    lock = json.loads((ROOT / "plugins/loaders/target-postgres--meltanolabs.lock").read_text())
    for shown, declared in (
        (tap, plugin("extractors", "tap-datasync")["settings"]),
        (loader, lock["settings"]),
    ):
        known = {setting["name"] for setting in declared}
        assert {"api_url", "host"} & set(shown)
        for name in shown:
            whole = name.partition(".")[0]
            assert name in known or whole in known or any(k.startswith(f"{name}.") for k in known)
    # The loader goes by the key.
    assert "load_method" not in loader


def test_compose_passes_every_setting_on() -> None:
    environment = COMPOSE["services"]["ingestion"]["environment"]
    assert set(NAMES) == set(environment)
    # The database is the one beside it, whatever .env says for a run without Docker.
    assert environment["DB_HOST"] == "postgres"


def test_compose_publishes_on_loopback_only_and_has_no_password_of_its_own() -> None:
    for name, service in COMPOSE["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name
    text = (ROOT / "docker-compose.yml").read_text()
    passwords = re.findall(r"PASSWORD: (.*)", text)
    assert passwords
    assert all(value.startswith("${DB_PASSWORD:?") for value in passwords)


def test_compose_locks_our_containers_down() -> None:
    for name, service in COMPOSE["services"].items():
        if name != "postgres":
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["init"] is True, name


@pytest.mark.parametrize("stage", ["pipeline", "dashboard"])
def test_images_run_as_the_unprivileged_user_in_exec_form(stage: str) -> None:
    text = (ROOT / "Dockerfile").read_text()
    part = re.search(rf"^FROM base AS {stage}$(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL)
    assert part
    assert re.search(r"^USER 10001:10001$", part[1], re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["', part[1], re.MULTILINE)
    assert "HEALTHCHECK" in part[1]


def test_secrets_and_state_stay_out_of_the_image_and_of_git() -> None:
    dockerignore = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in dockerignore if line.startswith("!")]
    assert "*" in dockerignore
    assert not [name for name in allowed if name.startswith(".")]
    gitignore = (ROOT / ".gitignore").read_text().split()
    assert {".env", "/.meltano/", "/.run/", "/.sandbox/"} <= set(gitignore)


def test_the_hooks_run_every_check_and_are_installed_for_each_stage() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    checks = subprocess.run(
        ["sh", ROOT / "run-checks.sh", "--list"], check=True, capture_output=True, text=True
    ).stdout
    run = " ".join(hook["entry"].removeprefix("sh run-checks.sh ") for hook in hooks)
    assert sorted(run.split()) == sorted(checks.split())
    stages = {stage for hook in hooks for stage in hook.get("stages", config["default_stages"])}
    assert stages == set(config["default_install_hook_types"])
