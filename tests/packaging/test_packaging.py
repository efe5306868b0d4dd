"""The hub's definition, the example of two accounts, and what commits, builds and hooks contain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasync_sandbox.testing import ApiOptions, running_api, temporary_postgres
from tap_datasync.config import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
HUB = ROOT / "hub" / "extractors" / "tap-datasync" / "datasync.yml"
DEFINITION: dict[str, Any] = yaml.safe_load(HUB.read_text())
# The hub's name for each kind of setting (meltano/hub, schemas/common/base_setting.schema.json).
KINDS = {"string": "string", "integer": "integer", "number": "decimal"}
ACCOUNTS = ROOT / "examples" / "two-accounts" / "accounts.meltano.yml"
INCLUDE = "include_paths:\n- .sandbox/meltano.yml\n"
PRIVATE = [
    ".env",
    ".meltano/meltano.db",
    ".run/log/1.log",
    ".sandbox/env",
    "monitoring/.env",
    "sandbox/.sandbox/env",
]

EMPTY = """\
version: 1
default_environment: dev
project_id: empty
send_anonymous_usage_stats: false
environments:
- name: dev
plugins:
  loaders:
  - name: target-jsonl
    variant: andyh1203
    namespace: target_jsonl
    pip_url: target-jsonl==0.1.4
    executable: target-jsonl
    settings:
    - name: destination_path
    - name: do_timestamp_file
      kind: boolean
    config:
      destination_path: out
      do_timestamp_file: false
"""


def meltano(home: Path, *words: str, **env: str) -> str:
    """Run Meltano in a project, without settings of this one; returns its output."""
    foreign = ("API_", "BATCH_", "DB_", "MELTANO_", "TAP_", "TARGET_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(
        [ROOT / ".venv" / "bin" / "meltano", "--log-format=uncolored", *words],
        cwd=home,
        env={**own, "NO_COLOR": "1", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"meltano {' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def state(home: Path, state_id: str) -> dict[str, Any]:
    """Return the bookmark of the events."""
    saved = json.loads(meltano(home, "state", "get", state_id))
    bookmark: dict[str, Any] = saved["singer_state"]["bookmarks"]["events"]
    return bookmark


def test_capabilities_match_tap() -> None:
    about = subprocess.run(
        [Path(sys.executable).parent / "tap-datasync", "--about", "--format=json"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert sorted(json.loads(about.stdout)["capabilities"]) == DEFINITION["capabilities"]


@pytest.mark.parametrize(("name", "declared"), SETTINGS.to_dict()["properties"].items())
def test_settings_match_tap(name: str, declared: dict[str, Any]) -> None:
    offered = next(setting for setting in DEFINITION["settings"] if setting["name"] == name)
    assert offered["description"] == declared["description"]
    assert offered.get("value") == declared.get("default")
    assert offered.get("sensitive", False) == declared.get("secret", False)
    kinds = declared["type"] if isinstance(declared["type"], list) else [declared["type"]]
    assert offered["kind"] in {KINDS[kind] for kind in kinds if kind != "null"}


def test_required_settings_are_validated() -> None:
    assert DEFINITION["settings_group_validation"] == [["api_url", "api_key"]]


@pytest.mark.slow
def test_loads_in_empty_project_with_another_target(tmp_path: Path) -> None:
    (tmp_path / "meltano.yml").write_text(EMPTY)
    # The tap is not on PyPI yet, so the checkout is installed.
    local = HUB.read_text().replace(
        "pip_url: tap-datasync\n", f"pip_url: {ROOT / 'tap-datasync'}\n"
    )
    reference = tmp_path / "datasync.yml"
    reference.write_text(local)
    meltano(tmp_path, "add", "tap-datasync", "--plugin-type=extractor", f"--from-ref={reference}")
    meltano(tmp_path, "install", "loader", "target-jsonl")
    with running_api(ApiOptions(port=0, events=7000)) as api:
        settings = {"TAP_DATASYNC_API_URL": api.url, "TAP_DATASYNC_API_KEY": api.key}
        meltano(tmp_path, "run", "tap-datasync", "target-jsonl", **settings)
        expected = {row.id for row in api.model.feed.rows()}
    lines = (tmp_path / "out" / "events.jsonl").read_text().splitlines()
    assert len(lines) == 7000
    assert {json.loads(line)["id"] for line in lines} == expected
    bookmark = state(tmp_path, "dev:tap-datasync-to-target-jsonl")
    assert bookmark["cursor"] is None
    assert bookmark["high_watermark"]


def test_each_account_has_its_own_schema_and_state(tmp_path: Path) -> None:
    (tmp_path / "plugins").symlink_to(ROOT / "plugins")
    (tmp_path / ACCOUNTS.name).write_text(ACCOUNTS.read_text())
    project = (ROOT / "meltano.yml").read_text()
    assert INCLUDE in project
    # As the README of the example describes it.
    included = project.replace(INCLUDE, f"{INCLUDE}- {ACCOUNTS.name}\n")
    (tmp_path / "meltano.yml").write_text(included)
    with (
        temporary_postgres(tmp_path / "database") as database,
        running_api(ApiOptions(port=0, events=300, seed=1, key="key-of-emea")) as emea,
        running_api(ApiOptions(port=0, events=200, seed=2, key="key-of-apac")) as apac,
    ):
        env = {
            "DB_HOST": database.host,
            "DB_PORT": str(database.port),
            "DB_USER": database.user,
            "DB_PASSWORD": database.password,
            "DB_NAME": database.database,
            "EMEA_API_KEY": emea.key,
            "APAC_API_KEY": apac.key,
        }
        # The sandbox serves one account, so here each has an address of its own.
        meltano(tmp_path, "run", "--no-install", "load-emea", API_BASE_URL=emea.url, **env)
        meltano(tmp_path, "run", "--no-install", "load-apac", API_BASE_URL=apac.url, **env)
        counts = database.sql(
            "SELECT (SELECT count(*) FROM emea.events), (SELECT count(*) FROM apac.events),"
            " (SELECT count(*) FROM emea.events JOIN apac.events USING (id)),"
            " to_regclass('public.events')"
        )
        assert counts.strip() == "300|200|0|"
        states = [
            state(tmp_path, f"dev:tap-datasync--{name}-to-target-postgres--{name}")
            for name in ("emea", "apac")
        ]
        assert [bookmark["events_seen"] for bookmark in states] == [300, 200]


@pytest.mark.parametrize("path", PRIVATE)
def test_secrets_and_state_stay_out_of_the_images(path: str) -> None:
    """The last pattern that matches a path, or a directory above it, decides."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    names = [path, *(str(parent) for parent in Path(path).parents)]
    matching = [
        pattern
        for pattern in patterns
        if any(fnmatchcase(f"/{name}", f"*/{pattern.strip('!/*')}") for name in names)
    ]
    assert matching
    assert not matching[-1].startswith("!")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the checkout is no git repository")
@pytest.mark.parametrize("path", PRIVATE)
def test_secrets_and_state_stay_out_of_git(path: str) -> None:
    done = subprocess.run(
        ["git", "check-ignore", "--verbose", path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    # Not of a file of this machine alone.
    assert done.stdout.startswith(".gitignore:"), done.stderr


def test_hooks_run_every_check() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    checks = subprocess.run(
        ["sh", ROOT / "run-checks.sh", "--list"], check=True, capture_output=True, text=True
    ).stdout
    run = " ".join(hook["entry"].removeprefix("sh run-checks.sh ") for hook in hooks)
    assert sorted(run.split()) == sorted(checks.split())
    # A stage that `pre-commit install` leaves out would never run.
    stages = {stage for hook in hooks for stage in hook.get("stages", config["default_stages"])}
    assert stages == set(config["default_install_hook_types"])
