"""Looks at an installation, and names for whatever is wrong what cures it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from core.printable import printable
from core.settings import Settings, environment
from core.telemetry import configure_logging
from functions.cli.exit_codes import ExitCode
from functions.cli.options import AsJson
from functions.cli.running import run_interruptible

if TYPE_CHECKING:
    from core.postgres.rights import Process
    from functions.doctor.findings import Diagnosis

_MARKS = {"ok": "ok      ", "warning": "WARNING ", "problem": "PROBLEM ", "skipped": "-       "}


def parse_process(name: str) -> "Process":
    """Read a process from an option."""
    from core.postgres.rights import Process  # noqa: PLC0415 - what `--help` need not load

    try:
        return Process[name.upper()]
    except KeyError:
        msg = f"no process is called {name!r}; there are {', '.join(one.name.lower() for one in Process)}"
        raise typer.BadParameter(msg) from None


OfProcess = Annotated[
    Any,
    typer.Option(
        "--process",
        parser=parse_process,
        metavar="relay|mirror|functions|application",
        help="Whose rights the role must have; without it, those of any.",
    ),
]
OfFunctions = Annotated[
    Path | None,
    typer.Option(
        "--functions",
        metavar="DIR",
        help="Look at the Functions app in this folder, too: host.json and application settings.",
        exists=True,
        file_okay=False,
    ),
]


def doctor(
    *,
    process: OfProcess = None,
    functions: OfFunctions = None,
    as_json: AsJson = False,
) -> None:
    """Look at everything, change nothing, and say what is wrong, where, why it matters and what to run.

    Settings, mappings, TLS and what is served over HTTP; Postgres with schema, tables, triggers, rights, phase, switch,
    relays, mirrors, canaries, dead letters and the last comparison; Cosmos DB with containers, keys, TTL and access;
    clocks; the cache; the Functions app. What cannot be asked is said to be skipped. It takes the settings of the
    process that it is to look at, and costs a few request units.
    """
    diagnosis = run_interruptible(_examine(process, functions))
    if as_json:
        print(orjson.dumps(diagnosis.facts(), option=orjson.OPT_INDENT_2).decode())
    else:
        print("\n".join(map(printable, _lines(diagnosis))))
    raise typer.Exit(ExitCode.DONE if diagnosis.is_healthy else ExitCode.FAILED)


async def _examine(process: "Process | None", functions: Path | None) -> "Diagnosis":
    from functions.doctor.examination import examine  # noqa: PLC0415 - what `--help` need not load
    from functions.doctor.functions_questions import app_of  # noqa: PLC0415 - what `--help` need not load
    from functions.doctor.patient import Surroundings  # noqa: PLC0415 - what `--help` need not load

    settings, wrong = Settings.load_what_fits()
    configure_logging(settings.model_copy(update={"log_level": "error"}))  # what is said there is a finding here
    given = environment()
    return await examine(Surroundings(settings, wrong, given, functions or app_of(given), process))


def _lines(diagnosis: "Diagnosis") -> list[str]:
    lines = []
    for one in diagnosis.answers:
        lines.append(f"{_MARKS[one.status]}{one.name}{f': {one.detail}' if one.detail else ''}")
        for finding in one.findings:
            lines += [
                f"    {finding.level}: {finding.where}: {finding.what}",
                f"        why:  {finding.why}",
                f"        cure: {finding.run}",
            ]
    facts = diagnosis.facts()
    lines.append(f"{facts['problems']} problems, {facts['warnings']} warnings")
    return lines
