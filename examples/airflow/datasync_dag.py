"""Load several DataSync accounts every day: one task per account, all from the same image.

Each account has an API key, a database and a rate limit of its own, so the tasks run side by
side, on any worker. The state is in the account's database (`MELTANO_DATABASE_URI`), not in the
container: a task that is tried again, on this worker or another, resumes at its page. While
another load of the account runs, for example one that a killed worker left behind, it ends with
exit code 75 without a request and is tried again.

Secrets come from Airflow connections, one per account: `datasync_emea` with the API's address as
host and the key as password. Airflow keeps them out of its logs.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

# Account `emea`: connection `datasync_emea`, database `events_emea`.
ACCOUNTS = os.environ.get("DATASYNC_ACCOUNTS", "emea apac").split()

# `--env NAME` passes the operator's variable on by name, so that no secret is on a command line.
DOCKER = (
    "docker run --rm --init --read-only --cap-drop ALL --security-opt no-new-privileges"
    " --tmpfs /tmp --tmpfs /app/.run:uid=10001,gid=10001,mode=0700"
    " --env API_BASE_URL --env API_KEY --env MELTANO_DATABASE_URI"
    " --env DB_HOST --env DB_PORT --env DB_USER --env DB_PASSWORD --env DB_NAME"
    " datasync-pipeline"
)
# For a worker without Docker, the command of a checkout: `sh /srv/datasync/run-ingestion.sh`.
COMMAND = os.environ.get("DATASYNC_COMMAND", DOCKER)

with DAG(
    dag_id="datasync",
    # An empty DATASYNC_SCHEDULE: only when it is triggered.
    schedule=os.environ.get("DATASYNC_SCHEDULE", "@daily") or None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    tags=["datasync"],
):
    for account in ACCOUNTS:
        connection = f"conn.datasync_{account}"
        database = f"events_{account}"
        BashOperator(
            task_id=f"load_{account}",
            # The trailing space: Airflow takes a command that ends in .sh for a template file.
            bash_command=f"{COMMAND} ",
            env={
                "API_BASE_URL": f"{{{{ {connection}.host }}}}",
                "API_KEY": f"{{{{ {connection}.password }}}}",
                "DB_HOST": "{{ conn.datasync_warehouse.host }}",
                "DB_PORT": "{{ conn.datasync_warehouse.port }}",
                "DB_USER": "{{ conn.datasync_warehouse.login }}",
                "DB_PASSWORD": "{{ conn.datasync_warehouse.password }}",
                "DB_NAME": database,
                # A schema of its own beside the events.
                "MELTANO_DATABASE_URI": (
                    "postgresql+psycopg://{{ conn.datasync_warehouse.login | urlencode }}"
                    ":{{ conn.datasync_warehouse.password | urlencode }}"
                    "@{{ conn.datasync_warehouse.host }}:{{ conn.datasync_warehouse.port }}"
                    f"/{database}?options=-csearch_path%3Dmeltano"
                ),
            },
            append_env=True,
            # A load restarts itself while it progresses; these are for a lost worker and for what
            # takes longer. The delay is Airflow's default, five minutes.
            retries=5,
            # More than three million events take at the API's rate limit.
            execution_timeout=timedelta(hours=4),
        )
