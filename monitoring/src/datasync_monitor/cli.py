"""The command `datasync-monitor`."""

from __future__ import annotations

import argparse
import math
import sys
import time
from datetime import timedelta
from threading import Event

from datasync_monitor import __version__
from datasync_monitor.check import Verdict, check
from datasync_monitor.database import Settings, is_port
from datasync_monitor.health import PATIENCE

_DESCRIPTION = (
    "Look at a load of events: everything is read from PostgreSQL, and nothing is written."
)
_ENVIRONMENT = """\
environment:
  DB_HOST, DB_PORT, DB_USER, DB_PASSWORD, DB_NAME
                        the database; by default that of the sandbox
                        (127.0.0.1, 54329, datasync, sandbox, events). With
                        DB_HOST the port is 5432 by default, and the password
                        is left to libpq (~/.pgpass).
"""
_CANNOT_RUN = 3


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        settings = Settings.from_environment(schema=arguments.schema)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return Verdict.NO_DATABASE
    try:
        return int(arguments.run(settings, arguments))
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        if error.name not in {"streamlit", "prometheus_client"}:
            raise
        extra = "web" if error.name == "streamlit" else "metrics"
        message = (
            f"{error.name} is not installed: `meltano invoke datasync-monitor:{extra}` brings it, "
            f"or pip install './monitoring[{extra}]'."
        )
        print(message, file=sys.stderr)  # noqa: T201
        return _CANNOT_RUN


def _check(settings: Settings, arguments: argparse.Namespace) -> int:
    outcome = check(settings, patience=timedelta(seconds=arguments.patience))
    print(outcome.text)  # noqa: T201
    return outcome.verdict


def _watch(settings: Settings, arguments: argparse.Namespace) -> int:
    from datasync_monitor.watch import watch  # noqa: PLC0415 - `check` starts in half the time without rich

    watch(
        settings,
        patience=timedelta(seconds=arguments.patience),
        pause=lambda: time.sleep(arguments.every),
        follow=arguments.follow,
    )
    return 0


def _web(settings: Settings, arguments: argparse.Namespace) -> int:
    from datasync_monitor.web.launch import serve  # noqa: PLC0415 - needs the extra `web`

    try:
        serve(
            settings,
            host=arguments.host,
            port=arguments.port,
            every=arguments.every,
            patience=arguments.patience,
        )
    except OSError as error:
        return _cannot_listen(arguments, error)


def _metrics(settings: Settings, arguments: argparse.Namespace) -> int:
    from datasync_monitor.metrics import serve  # noqa: PLC0415 - needs the extra `metrics`

    host, port = arguments.host, arguments.port
    try:
        serve(settings, host=host, port=port, patience=timedelta(seconds=arguments.patience))
    except OSError as error:
        return _cannot_listen(arguments, error)
    print(f"Metrics of {settings.place}: http://{host}:{port}/metrics", flush=True)  # noqa: T201
    Event().wait()
    return 0


def _cannot_listen(arguments: argparse.Namespace, error: OSError) -> int:
    message = f"Cannot listen on {arguments.host}:{arguments.port}: {error.strerror}."
    print(message, file=sys.stderr)  # noqa: T201
    return _CANNOT_RUN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="datasync-monitor",
        description=_DESCRIPTION,
        epilog=_ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--schema", default="public", help="schema of the tables (%(default)s)")
    common.add_argument(
        "--patience",
        type=_positive,
        default=PATIENCE.total_seconds(),
        metavar="SECONDS",
        help="silence beyond every announced wait that counts as stuck (%(default)g)",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    watching = commands.add_parser(
        "watch", parents=[common], help="the live bar of a load that runs elsewhere"
    )
    watching.add_argument(
        "--every",
        type=_positive,
        default=1.0,
        metavar="SECONDS",
        help="how often to look (%(default)g)",
    )
    watching.add_argument(
        "--follow", action="store_true", help="go on after the end of a walk, until Ctrl-C"
    )
    watching.set_defaults(run=_watch)

    checking = commands.add_parser(
        "check",
        parents=[common],
        help="the health check: one line; exit 0 healthy, 1 stuck, 2 no database",
    )
    checking.set_defaults(run=_check)

    web = commands.add_parser("web", parents=[common], help="the dashboard in the browser")
    web.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    web.add_argument("--port", type=_port, default=8501, help="port to listen on (%(default)s)")
    web.add_argument(
        "--every",
        type=_positive,
        default=2.0,
        metavar="SECONDS",
        help="how often the page refreshes (%(default)g)",
    )
    web.set_defaults(run=_web)

    metrics = commands.add_parser(
        "metrics", parents=[common], help="the same numbers for Prometheus, at /metrics"
    )
    metrics.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    metrics.add_argument("--port", type=_port, default=9464, help="port to listen on (%(default)s)")
    metrics.set_defaults(run=_metrics)
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        message = "must be a number of seconds, more than 0"
        raise argparse.ArgumentTypeError(message)
    return value


def _port(text: str) -> int:
    if not is_port(text):
        message = "must be a port number, 1 to 65535"
        raise argparse.ArgumentTypeError(message)
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
