"""Load several DataSync accounts every day: one task an account, all from the same image.

Each account has a key, a database, and a limit of its own at the API, so the tasks run side by
side. A task that fails is tried again and goes on at its page; its state is in the database of
`MELTANO_DATABASE_URI`, not in the container, so any worker can do it.

Secrets come from Airflow connections, one an account: `datasync_emea` with the API's address as
host and the key as password. Airflow keeps them out of its logs.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

# The accounts: name of the connection, and the database that its events go into.
ACCOUNTS = {"emea": "events_emea", "apac": "events_apac"}

# How the image is run. The variables are the operator's; `--env NAME` hands one on by name,
# so that no secret is on a command line.
DOCKER = (
    "docker run --rm --init --read-only --tmpfs /tmp"
    " --tmpfs /app/.run:uid=10001,gid=10001,mode=0700"
    " --tmpfs /app/.meltano/run:uid=10001,gid=10001,mode=0700"
    " --env API_BASE_URL --env API_KEY --env MELTANO_DATABASE_URI"
    " --env DB_HOST --env DB_PORT --env DB_USER --env DB_PASSWORD --env DB_NAME"
    " datasync-pipeline --bulk"
)
# A worker with a checkout and no Docker: `DATASYNC_COMMAND="sh /srv/datasync/run-ingestion.sh"`.
COMMAND = os.environ.get("DATASYNC_COMMAND", DOCKER)

with DAG(
    dag_id="datasync",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    # Two runs of one account would walk the same feed twice.
    max_active_runs=1,
    tags=["datasync"],
):
    for account, database in ACCOUNTS.items():
        connection = f"conn.datasync_{account}"
        BashOperator(
            task_id=f"load_{account}",
            # The space: Airflow takes a command that ends in .sh for the name of a template.
            bash_command=f"{COMMAND} ",
            env={
                "API_BASE_URL": f"{{{{ {connection}.host }}}}",
                "API_KEY": f"{{{{ {connection}.password }}}}",
                "DB_HOST": "{{ conn.datasync_warehouse.host }}",
                "DB_PORT": "{{ conn.datasync_warehouse.port }}",
                "DB_USER": "{{ conn.datasync_warehouse.login }}",
                "DB_PASSWORD": "{{ conn.datasync_warehouse.password }}",
                "DB_NAME": database,
                # The state beside the events: a schema of its own in the account's database.
                "MELTANO_DATABASE_URI": (
                    "postgresql+psycopg://{{ conn.datasync_warehouse.login | urlencode }}"
                    ":{{ conn.datasync_warehouse.password | urlencode }}"
                    "@{{ conn.datasync_warehouse.host }}:{{ conn.datasync_warehouse.port }}"
                    f"/{database}?options=-csearch_path%3Dmeltano"
                ),
            },
            append_env=True,
            # A run restarts itself while it gets anywhere; these are for what a new start mends.
            retries=3,
            retry_delay=timedelta(minutes=5),
            # Longer than three million events at the API's limit take.
            execution_timeout=timedelta(hours=4),
        )
