"""Command line of the benchmark."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import click
import psutil
import psycopg

from datasync_bench import measurements, report
from datasync_bench.candidates import CANDIDATES
from datasync_bench.environment import BENCH, WORK
from datasync_bench.processes import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = ("comparison", "size", "rate_limit_scaled", "rate_limit", "later_runs")
SMOKE_EVENTS = 20_000


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--part",
    "parts",
    type=click.Choice(PARTS),
    multiple=True,
    help="Measure this part only; may be repeated. The default is all of them.",
)
@click.option(
    "--only",
    type=click.Choice(list(CANDIDATES)),
    multiple=True,
    help="Compare only this candidate; may be repeated.",
)
@click.option("--events", default=300_000, show_default=True, help="Events to compare with.")
@click.option("--repeat", default=3, show_default=True, help="Counted runs of each candidate.")
@click.option("--smoke", is_flag=True, help="Run every part briefly; measures nothing.")
@click.option("--update-pages", is_flag=True, help="Write the results into the documentation.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory for results.json and results.md; parts measured before are kept. "
    "The default is bench/out, with --smoke bench/.work/smoke.",
)
def main(  # noqa: PLR0913 - one argument per option
    *,
    parts: tuple[str, ...],
    only: tuple[str, ...],
    events: int,
    repeat: int,
    smoke: bool,
    update_pages: bool,
    out: Path | None,
) -> None:
    """Measure this project beside other ways to load the same events."""
    if smoke and update_pages:
        message = "--smoke measures nothing that a page could quote: omit --update-pages."
        raise click.UsageError(message)
    sizes, windows = [100_000, 1_000_000, 3_000_000], 6
    if smoke:
        events, repeat, sizes, windows = SMOKE_EVENTS, 1, [SMOKE_EVENTS], 1
    chosen = [name for name in CANDIDATES if not only or name in only]
    measure: dict[str, Callable[[], list[measurements.Result]]] = {
        "comparison": lambda: measurements.comparison(chosen, events, repeat),
        "size": lambda: measurements.size(sizes),
        "rate_limit_scaled": lambda: measurements.rate_limit(10.0, windows),
        "rate_limit": lambda: measurements.rate_limit(1.0, 2),
        "later_runs": lambda: measurements.later_runs(events),
    }
    skipped = {"rate_limit"} if smoke else set()
    WORK.mkdir(exist_ok=True)
    # Apart from what was measured, with which a later run fills the pages.
    out = out or (WORK / "smoke" if smoke else BENCH / "out")
    out.mkdir(parents=True, exist_ok=True)
    document = out / "results.json"
    results = json.loads(document.read_text()) if document.exists() else {}
    results["machine"] = _machine()
    try:
        for part in parts or [name for name in PARTS if name not in skipped]:
            click.echo(f"{part}:")
            results[part] = measure[part]()
            document.write_text(json.dumps(results, indent=1) + "\n")
        text = report.markdown(results)
        (out / "results.md").write_text(text)
        click.echo(text)
        valid = all(row["valid"] for part in PARTS for row in results.get(part, ()))
        if update_pages and valid:
            click.echo(f"Updated: {', '.join(map(str, report.update_pages(results)))}")
    except (CommandError, OSError, RuntimeError, ValueError, psycopg.Error) as error:
        raise click.ClickException(str(error)) from error
    except KeyError as error:
        message = f"The pages quote a part that was not measured: {error}."
        raise click.ClickException(message) from error
    if not valid:
        message = "A load was incomplete: its row is void, and the pages stay as they are."
        raise click.ClickException(message)


def _machine() -> dict[str, object]:
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }
