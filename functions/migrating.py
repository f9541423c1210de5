"""Wires the moves between phases to the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.migration.ports import Ports
from core.migration.switch import Migration
from outbox.barrier import SlotBarrier
from outbox.log_hold import LogHold
from outbox.publisher import Publisher

if TYPE_CHECKING:
    from functions.bootstrap import Application


def migration_of(application: Application) -> Migration:
    """Return what moves this installation between its phases."""
    engine, store, mappings = application.engine, application.store, application.mappings
    publisher = Publisher(engine, store, mappings, application.settings)
    ports = Ports(SlotBarrier(), LogHold(engine), publisher)
    return Migration(engine, store, mappings, application.settings, ports)
