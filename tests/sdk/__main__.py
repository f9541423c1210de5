"""Runs the tests that the makers of azure-cosmos wrote for it against the embedded server."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path  # noqa: TC003 - typer evaluates it
from typing import TYPE_CHECKING, Annotated

import typer

from tests.sdk import running
from tests.sdk.files import ALL, NAMED, SHORT
from tests.sdk.running import FileRun, State
from tests.sdk.source import CACHE, SourceError
from tests.sdk.verdict import DEMANDED_SHARE, Listed, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

_WRONG, _CANNOT_RUN, _INTERRUPTED = 1, 2, 130
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def sdk_tests(
    files: Annotated[
        list[str] | None, typer.Argument(help="Files of the SDK's tests; all that are known by default.")
    ] = None,
    short: Annotated[bool, typer.Option("--short", help="The files that take little time and cover much.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    jobs: Annotated[int, typer.Option(help="How many files run at a time.", min=1)] = 2,
    cache: Annotated[Path, typer.Option(help="Where the source distribution is kept.")] = CACHE,
) -> None:
    """Exit with 1 if the outcome differs from the committed list, with 2 if the tests cannot be run."""
    chosen = files or (SHORT if short else ALL)

    def say(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    try:
        runs = asyncio.run(_stoppable(running.run(chosen, jobs, say, cache)))
    except (SourceError, running.ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(_CANNOT_RUN) from error
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(_INTERRUPTED) from error
    listed = Listed.load()
    verdict = judge(runs, listed, NAMED)
    print(json.dumps(_as_json(runs, listed, verdict)) if as_json else _as_text(runs, listed, verdict))
    raise typer.Exit(_WRONG if verdict.problems else 0)


async def _stoppable(work: Coroutine[None, None, list[FileRun]]) -> list[FileRun]:
    """Let SIGTERM end the work as Ctrl-C does: by cancelling it, so that the processes it started end first."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _as_text(runs: Sequence[FileRun], listed: Listed, verdict: Verdict) -> str:
    width = max(len(run.file) for run in runs)
    lines = ["", f"{'':{width}}  passed  failed  skipped  seconds"]
    for run in runs:
        passed, skipped, failed = (run.count(state) for state in State)
        star = "" if run.file in NAMED else "  +"
        lines.append(f"{run.file:{width}}  {passed:6}  {failed:6}  {skipped:7}  {run.seconds:7.1f}{star}")
    passed, skipped, failed = (sum(run.count(state) for run in runs) for state in State)
    lines.append(f"{'all':{width}}  {passed:6}  {failed:6}  {skipped:7}")
    lines += [
        "",
        f"{verdict.passed} of {verdict.counted} tests pass ({verdict.share:.1%}, {DEMANDED_SHARE:.0%} demanded)",
    ]
    lines[-1] += ", not counting files marked + and tests that skip themselves"
    lines += [f"  {name}: {reason}" for name, reason in _reasons(runs, listed).items()]
    lines += ["", *(f"WRONG {problem}" for problem in verdict.problems)] if verdict.problems else ["as listed"]
    return "\n".join(lines)


def _reasons(runs: Sequence[FileRun], listed: Listed) -> dict[str, str]:
    """Return why tests of these files do not pass, as the list says."""
    files = {run.file for run in runs}
    everything = listed.failing | listed.skipping | listed.varying
    return {name: why for name, why in everything.items() if name.partition("::")[0] in files}


def _as_json(runs: Sequence[FileRun], listed: Listed, verdict: Verdict) -> dict[str, object]:
    return {
        "files": [
            {"file": run.file, "demanded": run.file in NAMED, "seconds": round(run.seconds, 1)}
            | {state.value: run.count(state) for state in State}
            for run in runs
        ],
        "passed": verdict.passed,
        "counted": verdict.counted,
        "share": round(verdict.share, 4),
        "not_passing": _reasons(runs, listed),
        "problems": verdict.problems,
    }


if __name__ == "__main__":
    app()
