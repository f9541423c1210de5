"""Measures on this machine what the README says: `python -m tests.bench --help` lists the benches."""

from __future__ import annotations

import json
import platform
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from core.settings import Settings
from core.telemetry import configure_logging
from functions.cli.running import run
from tests.bench import cosmos as cosmos_bench
from tests.bench import cosmos_memory as cosmos_memory_bench
from tests.bench.cosmos_memory import Load
from tests.bench.wire import WrongAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

MEASURED = {
    "capture": "What capture costs who writes, without and with a network in between.",
    "drain": "The whole relay with a sink that does nothing, against COPY.",
    "sink": "The guarded write to Cosmos DB against the SDK's own replace.",
    "latency": "From a commit in Postgres to its document in Cosmos DB, at 200 commits a second.",
    "mirror": "The guarded write to Postgres against COPY, and against the same row by row.",
    "feed": "From the change feed to committed rows, against the SDK's feed alone and the mirror alone.",
    "parity": "The digests of a million rows against a scan of them, and the reading of documents.",
    "cache": "What the read cache saves whose entry is there, and costs whose is not.",
    "switch": "How long writers wait while the primary moves, forwards and back.",
    "charges": "Request units of each operation, and by the plain SDK, as the embedded server charges.",
    "peers": "Crossfeed against other outboxes, each in an environment of its own.",
}
"""Modules beside this one with `async def measure(seconds: float, rounds: int) -> dict[str, float | int | str]`.

`seconds` is how long each figure is measured, cut into `rounds` that alternate; the figures are the rounds' medians.
"""


@app.callback()
def benches() -> None:
    """Measure on this machine."""
    configure_logging(Settings.load(log_level="warning"))  # to stderr: stdout is for figures


@app.command()
def cosmos(
    as_json: AsJson = False,
    seconds: Annotated[float, typer.Option(help="How long each figure is measured.", min=0.1)] = 15.0,
    rounds: Annotated[
        int, typer.Option(help="Into how many alternating rounds that is cut.", min=1)
    ] = cosmos_bench.ROUNDS,
) -> None:
    """The embedded Cosmos DB: upserts, batches, change feed."""
    with _honest():
        figures = cosmos_bench.measured(seconds, rounds)
    if as_json:
        print(json.dumps({figure.name: round(figure.per_second) for figure in figures}))
        return
    table = Table(
        title=f"median of {rounds} rounds; CPU of the server, per 1,000 requests; {machine()}", title_justify="left"
    )
    for column in ("", "per s", "requests", "p50 ms", "p99 ms", "CPU s/1,000"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for figure in figures:
        cpu = figure.cpu_per_thousand
        table.add_row(
            figure.name,
            f"{figure.per_second:,.0f}",
            f"{len(figure.latencies):,}",
            f"{figure.latency_ms(50):.2f}",
            f"{figure.latency_ms(99):.2f}",
            "unknown" if cpu is None else f"{cpu:.3f}",
        )
    Console().print(table)


@app.command()
def cosmos_memory(
    as_json: AsJson = False,
    writes: Annotated[int, typer.Option(help="How many writes of each load.", min=1000)] = 1_000_000,
    load: Annotated[list[Load] | None, typer.Option(help="What to write; all loads if there is none.")] = None,
) -> None:
    """The embedded Cosmos DB: memory over many writes to few documents."""
    loads = load or list(Load)
    with _honest():
        samples = {each: cosmos_memory_bench.measured(each, writes) for each in loads}
    if as_json:
        print(json.dumps({each.value: samples[each] for each in loads}))
        return
    table = Table(title=f"resident MiB after writes to {cosmos_bench.DOCUMENTS:,} documents, {machine()}")
    table.add_column("writes", justify="right")
    for each in loads:
        table.add_column(each.value, justify="right")
    for row in zip(*samples.values(), strict=True):
        table.add_row(f"{row[0].writes:,}", *(f"{sample.resident / 2**20:.1f}" for sample in row))
    Console().print(table)


def _register(name: str, about: str) -> None:
    @app.command(name, help=about)
    def measured(
        as_json: AsJson = False,
        seconds: Annotated[float, typer.Option(help="How long each figure is measured.", min=0.1)] = 15.0,
        rounds: Annotated[int, typer.Option(help="Into how many alternating rounds that is cut.", min=1)] = 5,
    ) -> None:
        with _honest():
            figures = run(import_module(f"tests.bench.{name}").measure(seconds, rounds))
        if as_json:
            print(json.dumps(figures))
            return
        table = Table("", "", title=f"median of {rounds} rounds; {machine()}", title_justify="left", show_header=False)
        for figure, value in figures.items():
            table.add_row(figure, f"{value:,}" if isinstance(value, int | float) else value)
        Console().print(table)


for _name, _about in MEASURED.items():
    _register(_name, _about)


@contextmanager
def _honest() -> Iterator[None]:
    """End the bench without a figure if an answer was wrong."""
    try:
        yield
    except WrongAnswerError as error:
        print(f"wrong answer: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def machine() -> str:
    """Return what a figure must be read with: processor, Python, loop, date."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except FileNotFoundError:
        names = []
    processor = f"{len(names)} x {names[0]}" if names else platform.processor()
    loop = "uvloop" if find_spec("uvloop") else "asyncio"
    return f"{processor}, {platform.system()}, Python {platform.python_version()}, {loop}, {datetime.now(UTC):%Y-%m-%d}"


if __name__ == "__main__":
    app()
