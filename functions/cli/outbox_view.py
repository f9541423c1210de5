"""Prints how the log stands, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from outbox.status import Backlog, OutboxStatus


def show_status(status: OutboxStatus) -> None:
    """Print the figures, the slots and the partitions."""
    console = Console(highlight=False)
    console.print(f"states  {_backlog(status.states)}")
    console.print(f"events  {_backlog(status.events)}")
    console.print(f"parked {status.parked}, dead letters {status.dead_letters}, slots without a relay {status.unowned}")
    if status.retention_held_s is not None:
        slots = ", ".join(map(str, status.held_by))
        console.print(f"ALARM: slots {slots} hold old partitions back, for {_duration(status.retention_held_s)}")
    if status.overflow_bytes:
        console.print(f"{_size(status.overflow_bytes)} went to the default partition: no other was made in time")
    console.print(_slots(status))
    console.print(_partitions(status))


def _slots(status: OutboxStatus) -> Table:
    table = Table("slot", "carries", "relay", "lease", "token", "unsent", title="slots", title_justify="left")
    for slot in status.slots:
        lease = _duration(slot.lease_s) if slot.lease_s is not None else ""
        table.add_row(str(slot.slot), slot.carries, slot.name or "none", lease, str(slot.token), _backlog(slot.backlog))
    return table


def _partitions(status: OutboxStatus) -> Table:
    table = Table("from", "until", "size", title="partitions", title_justify="left")
    for part in status.partitions:
        size = "in the default partition" if part.in_default else _size(part.size_bytes)
        table.add_row(str(part.from_seq), str(part.until_seq), size)
    return table


def _backlog(backlog: Backlog) -> str:
    if backlog.oldest_s is None:
        return "0"
    return f"{backlog.messages}, the oldest {_duration(backlog.oldest_s)} old"


def _duration(seconds: float) -> str:
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"
