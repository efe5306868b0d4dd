"""The example of two accounts: two keys, two schemas, two states, one project."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from datasync_sandbox.testing import ApiOptions, running_api, temporary_postgres
from packaging_helpers import ROOT, Project

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = ROOT / "examples" / "two-accounts" / "accounts.meltano.yml"
INCLUDE = "include_paths:\n- .sandbox/meltano.yml\n"


def test_each_account_has_its_own_schema_and_state(project: Project, tmp_path: Path) -> None:
    (project.home / EXAMPLE.name).write_text(EXAMPLE.read_text())
    meltano = (project.home / "meltano.yml").read_text()
    assert INCLUDE in meltano
    # As the README of the example describes it.
    included = meltano.replace(INCLUDE, f"{INCLUDE}- {EXAMPLE.name}\n")
    (project.home / "meltano.yml").write_text(included)
    with (
        temporary_postgres(tmp_path) as database,
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
        project.meltano("run", "--no-install", "load-emea", API_BASE_URL=emea.url, **env)
        project.meltano("run", "--no-install", "load-apac", API_BASE_URL=apac.url, **env)
        counts = database.sql(
            "SELECT (SELECT count(*) FROM emea.events), (SELECT count(*) FROM apac.events),"
            " (SELECT count(*) FROM emea.events JOIN apac.events USING (id)),"
            " to_regclass('public.events')"
        )
        assert counts.strip() == "300|200|0|"
        states = [
            json.loads(
                project.meltano(
                    "state", "get", f"dev:tap-datasync--{name}-to-target-postgres--{name}"
                ).stdout
            )["singer_state"]["bookmarks"]["events"]
            for name in ("emea", "apac")
        ]
        assert [state["events_seen"] for state in states] == [300, 200]
