"""Whole runs of the supervisor as a process, with a real database and a Meltano that plays."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from ingestion_helpers import FINISH, failed, is_alive, load, stop, until

if TYPE_CHECKING:
    from datasync_sandbox.testing import Cluster
    from ingestion_helpers import Checkout


@pytest.fixture
def ready(checkout: Checkout, empty: Cluster) -> Checkout:
    checkout.use(empty)
    return checkout


def runs(empty: Cluster, columns: str) -> list[str]:
    return empty.sql(f"SELECT {columns} FROM runs ORDER BY id").splitlines()


def test_a_run_from_nothing_loads_and_sums_up(ready: Checkout, empty: Cluster) -> None:
    ready.play(FINISH)
    code, said = ready.run("--events=20", "--limit", "1000")
    assert code == 0, said
    assert "API:      http://127.0.0.1:1/api/v1 (sandbox: made-up events)" in said
    assert "events in the table     20 (20 new)" in said
    assert "events the API reports  20" in said
    assert ready.sandbox() == [["up", "--events=20", "--limit", "1000"]]
    (asked,) = ready.asked("run")
    assert asked["env"]["API_KEY"] == "sandbox-key"
    assert asked["env"]["DB_PORT"] == str(empty.port)
    columns = "source, outcome, restarts, events_before, events_after, ended_at IS NOT NULL"
    assert runs(empty, columns) == ["sandbox --events=20|finished|0|0|20|t"]


def test_the_lines_without_a_terminal_can_be_read_by_programs(ready: Checkout) -> None:
    ready.play(FINISH)
    _, said = ready.run()
    last = [line for line in said.splitlines() if " finished page=" in line]
    assert len(last) == 1
    assert "events=20" in last[0]
    assert "\x1b" not in said


def test_a_failed_run_is_started_again_until_it_is_finished(
    ready: Checkout, empty: Cluster
) -> None:
    ready.play(
        {"sql": load(5, cursor="c1"), **failed(1, "The API does not answer.")},
        {"sql": load(10, cursor="c2"), "kill": int(signal.SIGKILL)},
        FINISH,
    )
    code, said = ready.run()
    assert code == 0, said
    assert "The API does not answer. Starting again now (restart 1)." in said
    assert "Meltano was ended by SIGKILL. Starting again now (restart 2)." in said
    assert "restarts                2" in said
    assert runs(empty, "outcome, restarts") == ["finished|2"]
    assert not list((ready.root / ".meltano" / "run").glob("*/*.config.json"))


def test_exit_code_0_is_not_believed_while_the_walk_is_open(ready: Checkout) -> None:
    ready.play({"sql": load(5, cursor="c1")}, FINISH)
    code, said = ready.run()
    assert code == 0
    assert "the checkpoint says that the walk is not finished. Starting again" in said
    assert len(ready.asked("run")) == 2


@pytest.mark.parametrize(
    ("tap", "sentence"), [(2, "page_size is wrong."), (3, "The key is refused.")]
)
def test_what_waiting_cannot_mend_ends_at_once_and_is_said(
    ready: Checkout, empty: Cluster, tap: int, sentence: str
) -> None:
    ready.play(failed(tap, sentence))
    code, said = ready.run()
    assert code == tap
    assert said.splitlines()[-2] == sentence
    assert said.count(sentence) == 1
    assert "the next run goes on from there. The full log: .run/log/" in said.splitlines()[-1]
    assert len(ready.asked("run")) == 1
    assert runs(empty, "outcome, message") == [f"failed|{sentence}"]


def test_a_failure_goes_where_failures_go_and_into_the_log(ready: Checkout) -> None:
    ready.play(failed(3, "The key is refused."))
    process = ready.start(stderr=subprocess.PIPE)
    said, complained = process.communicate(timeout=120)
    assert process.returncode == 3
    assert "The key is refused." not in said
    assert complained.splitlines()[0] == "The key is refused."
    assert re.search(r" error    supervisor      The key is refused\.\n\Z", ready.log())


def test_no_restart_means_one_attempt(ready: Checkout) -> None:
    ready.play(failed(1, "The API does not answer."))
    code, said = ready.run("--no-restart")
    assert code == 1
    assert "The API does not answer." in said
    assert len(ready.asked("run")) == 1


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_pipeline_and_what_was_started(
    ready: Checkout, empty: Cluster, number: signal.Signals, expected: int
) -> None:
    ready.play({"sql": load(5, cursor="c1"), "tap": {"seconds": 60}})
    process = ready.start()
    session = until(lambda: ready.asked("run"))[0]["session"]
    until(lambda: "Page 1" in ready.log())
    code, said = stop(process, number)
    assert code == expected
    assert "Stopped. What is loaded stays" in said
    assert not is_alive(session)
    assert ready.sandbox()[1:] == [["down", "--api-only"], ["down", "--db-only"]]
    assert runs(empty, "outcome, events_after") == ["stopped|5"]
    assert '"exit_codes": {"extractors": 143}' in ready.log()


def test_a_sandbox_that_ran_before_is_left_running(ready: Checkout) -> None:
    (ready.root / "was-running").touch()
    ready.play({"tap": {"seconds": 60}})
    process = ready.start()
    until(lambda: "Page 1" in ready.log())
    code, _ = stop(process, signal.SIGINT)
    assert code == 130
    assert [words[0] for words in ready.sandbox()] == ["up"]


def test_a_run_under_nohup_outlives_its_terminal(ready: Checkout) -> None:
    ready.play({"tap": {"seconds": 60}})
    # What a process ignores is ignored by those that it starts.
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = ready.start()
    finally:
        signal.signal(signal.SIGHUP, handler)
    until(lambda: "Page 1" in ready.log())
    process.send_signal(signal.SIGHUP)
    assert stop(process, signal.SIGTERM)[0] == 143


def test_an_output_that_nobody_reads_ends_the_run_with_a_sentence(ready: Checkout) -> None:
    """As in `run-ingestion.sh | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    ready.play(FINISH)
    process = ready.start(stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, complained = process.communicate(timeout=120)
    assert process.returncode == 1
    assert complained == (
        "The run has to end: [Errno 32] Broken pipe. "
        "What is loaded stays, and the next run goes on from there.\n"
    )


def test_a_second_run_beside_the_first_is_refused(ready: Checkout) -> None:
    ready.play({"tap": {"seconds": 60}})
    first = ready.start()
    until(lambda: "Page 1" in ready.log())
    code, said = ready.run()
    assert code == 75
    assert said == (
        f"Another run is under way here (process {first.pid}): "
        "wait for it, or stop it with Ctrl-C.\n"
    )
    assert ready.run("--stop")[0] == 75
    assert stop(first, signal.SIGTERM)[0] == 143


def test_a_killed_supervisor_leaves_nothing_that_the_next_run_does_not_clear(
    ready: Checkout, empty: Cluster
) -> None:
    ready.play({"sql": load(5, cursor="c1"), "tap": {"seconds": 60}}, FINISH)
    process = ready.start()
    session = until(lambda: ready.asked("run"))[0]["session"]
    until(lambda: "Page 1" in ready.log())
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert is_alive(session)
    code, said = ready.run()
    assert code == 0
    assert "A run that was killed had left its pipeline behind; it is ended." in said
    assert not is_alive(session)
    assert runs(empty, "outcome") == ["killed", "finished"]


def test_full_refresh_forgets_the_state_once_and_not_again_after_a_restart(ready: Checkout) -> None:
    ready.play(FINISH, {"sql": load(5, cursor="c1"), **failed(1, "No.")}, FINISH)
    ready.run()
    code, said = ready.run("--full-refresh")
    assert code == 0
    assert "Everything is loaded once more" in said
    assert len(ready.asked("clear")) == 1
    assert [asked for asked in ready.asked("run") if "--full-refresh" in asked["words"]] == []


def test_a_state_about_another_database_is_not_used(ready: Checkout) -> None:
    """As when `.env` named another database after the first load: nothing must be skipped."""
    state = {"singer_state": {"bookmarks": {"events": {"complete_to": "2026-01-27T00:00:00Z"}}}}
    (ready.root / "state.json").write_text(json.dumps(state))
    ready.play(FINISH)
    code, said = ready.run()
    assert code == 0
    assert "The database is new, so everything is loaded." in said
    assert not (ready.root / "state.json").exists()


def test_a_state_that_is_behind_the_database_is_brought_up_to_it(ready: Checkout) -> None:
    ready.play(FINISH, FINISH)
    ready.run()
    state = {"singer_state": {"bookmarks": {"events": {"events_seen": 15}}}}
    (ready.root / "state.json").write_text(json.dumps(state))
    code, said = ready.run()
    assert code == 0
    assert "brought to where the database is" in said
    bookmark = json.loads((ready.root / "state.json").read_text())["singer_state"]["bookmarks"]
    assert bookmark["events"]["events_seen"] == 20


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            [
                {
                    "event": "(sqlite3.OperationalError) unable to open database file\nAt: x",
                    "level": "error",
                },
                {"event": "Need help fixing this problem? Visit x", "level": "info"},
            ],
            "(sqlite3.OperationalError) unable to open database file",
        ),
        (["Error: No such option: --x"], "Error: No such option: --x"),
        ([], "exit code 1"),
    ],
)
def test_a_state_that_cannot_be_read_is_said_with_the_reason(
    ready: Checkout, log: list[dict[str, str] | str], reason: str
) -> None:
    """Meltano ends what it says with an offer of help, which is none."""
    lines = [
        line if isinstance(line, str) else json.dumps({"level": "error", **line}) for line in log
    ]
    (ready.root / "complaint.log").write_text("\n".join(lines))
    code, said = ready.run()
    assert code == 1
    assert said.splitlines()[-1] == f"`meltano state get` failed: {reason}"


def test_a_state_that_is_not_json_is_said_to_be_so(ready: Checkout) -> None:
    (ready.root / "state.json").write_text("{")
    code, said = ready.run()
    assert code == 1
    assert said.splitlines()[-1] == "`meltano state get` failed: what it says is not JSON."


def test_other_made_up_events_replace_the_former_ones(ready: Checkout, empty: Cluster) -> None:
    ready.play(FINISH, {"sql": load(7, total=7)})
    ready.run("--events=20")
    code, said = ready.run("--events=7")
    assert code == 0
    assert "the made-up ones of then are removed" in said
    assert "events in the table     7 (7 new)" in said
    assert runs(empty, "source") == ["sandbox --events=20", "sandbox --events=7"]


def test_real_events_do_not_go_beside_made_up_ones(ready: Checkout) -> None:
    ready.play(FINISH)
    ready.run()
    code, said = ready.run(API_KEY="k", API_BASE_URL="https://api.test/api/v1")
    assert code == 2
    assert "holds made-up events of the sandbox" in said
    assert len(ready.asked("run")) == 1


def test_a_mistyped_address_is_forgotten_when_nothing_came_from_it(
    ready: Checkout, empty: Cluster
) -> None:
    ready.play(failed(3, "The address is wrong."), FINISH)
    settings = {
        "API_KEY": "k",
        "DB_HOST": empty.host,
        "DB_PORT": str(empty.port),
        "DB_USER": empty.user,
        "DB_PASSWORD": empty.password,
        "DB_NAME": empty.database,
    }
    assert ready.run(**settings, API_BASE_URL="https://typo.test/api/v1")[0] == 3
    code, said = ready.run(**settings, API_BASE_URL="https://api.test/api/v1")
    assert code == 0
    assert "has changed" not in said


def test_a_table_of_somebody_elses_hides_the_progress_and_does_not_end_the_load(
    ready: Checkout, empty: Cluster
) -> None:
    empty.sql("CREATE TABLE pages (number INTEGER)")
    ready.play({"sql": load(5, cursor="c1")}, FINISH)
    code, said = ready.run()
    assert code == 0, said
    assert said.count("The progress cannot be shown for now. ") == 1
    assert "Traceback" not in said


def test_a_real_api_and_database_start_no_stand_in(ready: Checkout, empty: Cluster) -> None:
    """And the key is in no output, log or process list, only in the environment."""
    ready.play(FINISH)
    real = {
        "API_KEY": "real-key-123",
        "API_BASE_URL": "https://api.test/api/v1",
        "DB_HOST": empty.host,
        "DB_PORT": str(empty.port),
        "DB_USER": empty.user,
        "DB_PASSWORD": empty.password,
        "DB_NAME": empty.database,
        "BATCH_SIZE": "1000",
    }
    code, said = ready.run("--verbose", **real)
    assert code == 0, said
    assert ready.sandbox() == []
    (asked,) = ready.asked("run")
    assert asked["env"] == real
    assert "real-key-123" not in said + ready.log() + "".join(asked["words"])
    assert f"psql -h {empty.host} -p {empty.port}" in said
    assert runs(empty, "source") == ["https://api.test/api/v1"]


def test_the_file_is_read_and_the_environment_wins(ready: Checkout) -> None:
    (ready.root / ".env").write_text("BATCH_SIZE=100\nAPI_KEY=put-your-api-key-here\n")
    ready.play(FINISH)
    code, said = ready.run(BATCH_SIZE="200")
    assert code == 0
    assert "API_KEY is still the placeholder" in said
    assert ready.asked("run")[0]["env"]["BATCH_SIZE"] == "200"


def test_made_up_events_do_not_go_into_a_named_database(ready: Checkout, empty: Cluster) -> None:
    code, said = ready.run(DB_HOST=empty.host, DB_USER=empty.user)
    assert code == 2
    assert "made-up events are not loaded" in said
    assert ready.sandbox() == []
    assert not ready.asked("get")


def real(database: Cluster) -> dict[str, str]:
    """Return the settings of somebody with an API and a database of their own."""
    return {
        "API_KEY": "k",
        "API_BASE_URL": "https://api.test/api/v1",
        "DB_HOST": database.host,
        "DB_PORT": str(database.port),
        "DB_USER": database.user,
        "DB_PASSWORD": database.password,
    }


def test_a_wrong_password_is_said_at_once(ready: Checkout, empty: Cluster) -> None:
    code, said = ready.run(**real(empty) | {"DB_PASSWORD": "wrong-pw"})
    assert code == 2
    assert "PostgreSQL refuses the connection to events at" in said
    assert "password authentication failed" in said
    assert "wrong-pw" not in said
    assert not ready.asked("run")


def test_a_connection_without_encryption_is_refused_when_the_environment_wants_one(
    ready: Checkout, empty: Cluster
) -> None:
    """The names are libpq's own: docs/security.md says so."""
    code, said = ready.run(**real(empty), PGSSLMODE="require")
    assert code == 2
    assert "server does not support SSL" in said


def test_options_are_the_sandboxs_or_nobodys(ready: Checkout) -> None:
    code, said = ready.run("--wrong")
    assert (code, said) == (2, "No such option: --wrong\n")
    code, said = ready.run("--events=5", API_KEY="k", API_BASE_URL="https://api.test/api/v1")
    assert code == 2
    assert "'--events=5' is no option, or one of the sandbox, which is not used here." in said
    code, said = ready.run("--stop", "--bulk")
    assert (code, said) == (
        2,
        "--stop goes with no other option; see `sh run-ingestion.sh --help`.\n",
    )


def test_bulk_turns_on_the_bulk_lane_under_the_same_state(ready: Checkout) -> None:
    ready.play(FINISH, FINISH)
    ready.run()
    ready.run("--bulk")
    first, second = ready.asked("run")
    assert "TAP_DATASYNC_BATCH_CONFIG" not in first["env"]
    config = json.loads(second["env"]["TAP_DATASYNC_BATCH_CONFIG"])
    assert config["storage"]["root"].endswith("/check%20out/.run/batches")
    assert first["words"] == second["words"]


def test_verbose_shows_what_the_tools_say(ready: Checkout) -> None:
    ready.play({**FINISH, "log": [{"event": "a detail", "name": "tap-datasync"}]})
    assert "tap-datasync    a detail" in ready.run("--verbose")[1]
    ready.play({**FINISH, "log": [{"event": "a detail", "name": "tap-datasync"}]})
    assert "a detail" not in ready.run()[1]


def test_warnings_of_the_tap_are_shown_in_any_case(ready: Checkout) -> None:
    line = {"event": "The cursor is dead.", "name": "tap-datasync", "level": "warning"}
    ready.play({**FINISH, "log": [line, {"event": "No state", "level": "warning"}]})
    said = ready.run()[1]
    assert "tap-datasync: The cursor is dead." in said
    assert "No state" not in said


def test_settings_of_meltano_from_outside_do_not_change_the_run(ready: Checkout) -> None:
    ready.play(FINISH)
    code, _ = ready.run(MELTANO_RUN_FULL_REFRESH="1", MELTANO_ENVIRONMENT="prod")
    assert code == 0
    assert "MELTANO_RUN_FULL_REFRESH" not in ready.asked("run")[0]["env"]


def test_stop_stops_the_sandbox(ready: Checkout) -> None:
    assert ready.run("--stop") == (0, "stopped\n")
    assert ready.sandbox() == [["down"]]


def test_outside_a_checkout_it_says_where_it_belongs(ready: Checkout) -> None:
    (ready.root / "meltano.yml").unlink()
    code, said = ready.run()
    assert code == 2
    assert "run this through run-ingestion.sh" in said


def test_files_of_a_run_are_for_its_user_alone(ready: Checkout) -> None:
    (ready.root / ".run").rmdir()
    ready.play(FINISH)
    assert ready.run()[0] == 0
    assert (ready.root / ".run").stat().st_mode & 0o077 == 0
