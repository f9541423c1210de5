"""Shows the board: live on a terminal, plain lines in a pipe, and one table at the end."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from functions.demo.board import Board
    from functions.demo.verdict import Verdict

LIVE_S = 0.2
LINE_S = 1.0


@asynccontextmanager
async def showing(board: Board, console: Console) -> AsyncIterator[None]:
    """Show the board on a console for as long as the context."""
    view = asyncio.ensure_future(_live(board, console) if console.is_terminal else _lines(board, console))
    try:
        yield
    finally:
        view.cancel()
        await asyncio.gather(view, return_exceptions=True)


async def _live(board: Board, console: Console) -> None:
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    )
    task = progress.add_task("", total=1.0, visible=False)
    shown = 0
    current = None
    with Live(console=console, refresh_per_second=1 / LIVE_S, transient=True) as live:
        while True:
            while shown < len(board.finished):
                live.console.print(f"[green]done[/green] {board.finished[shown]}", highlight=False)
                shown += 1
            stage = board.stage
            if stage is not None:
                if stage is not current:
                    progress.reset(task, total=1.0, description=stage.title, visible=True)
                    current = stage
                progress.update(task, completed=stage.done())
            live.update(Group(progress, _counters(board)))
            await asyncio.sleep(LIVE_S)


def _counters(board: Board) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in board.counters().items():
        table.add_row(name, value)
    return table


async def _lines(board: Board, console: Console) -> None:
    shown = 0
    next_line = time.perf_counter() + LINE_S
    while True:
        while shown < len(board.finished):
            _line(console, f"done: {board.finished[shown]}")
            shown += 1
        if time.perf_counter() >= next_line and board.stage is not None:
            next_line += LINE_S
            counters = ", ".join(f"{name} {value}" for name, value in board.counters().items())
            _line(console, f"{board.stage.title}: {counters}" if counters else board.stage.title)
        await asyncio.sleep(LIVE_S)


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def show_verdict(verdict: Verdict, console: Console) -> None:
    """Print the one table at the end."""
    table = Table(title="Crossfeed demo: " + ("clean" if verdict.is_clean else "NOT clean"), title_justify="left")
    table.add_column("what")
    table.add_column("count", justify="right")
    table.add_column("meaning")
    for name, count, meaning in (
        (
            "written",
            verdict.written,
            f"acknowledged: {verdict.creates} creates, {verdict.updates} updates, {verdict.deletes} deletes",
        ),
        ("carried", verdict.carried, "of these, seen in the other store (the state or a newer one)"),
        ("lost", verdict.lost, "documents whose last write is not in both stores"),
        ("stale", verdict.stale, "documents that differ from their last write"),
        ("echoed", verdict.echoed, "documents that moved although nobody wrote them"),
        ("dead-lettered", verdict.dead_lettered, "documents put aside"),
        ("compared", verdict.documents, "documents and tombstones, deeply, in both stores"),
    ):
        table.add_row(name, str(count), meaning)
    for direction, lag in verdict.lag_ms.items():
        table.add_row(direction.replace("_", " "), f"{lag['p50']:.0f} ms", f"median lag; p99 {lag['p99']:.0f} ms")
    table.add_row("time", f"{verdict.seconds:.1f} s", "from the first statement to the verdict")
    console.print(table)
