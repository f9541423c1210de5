"""Notes each phase in the control container too, for processes of phase `cosmos_only` that run without Postgres.

Such a process cannot be told of a step; but when it starts it learns the epoch in which to write, and that it must not
start any more once the phase is another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from azure.core import MatchConditions

from core.cosmos.failures import DRIVER_ERRORS, NOT_FOUND, Changed, Exists, Missing, failure_of, read_error
from core.phases import Phase, PhaseRow, PhaseState

if TYPE_CHECKING:
    from azure.cosmos.aio import ContainerProxy

    from core.content import Document
    from core.cosmos.client import CosmosStore

_PHASE: Final = "phase"
_FIRST: Final = PhaseRow(Phase.COSMOS_ONLY, 1, PhaseState.STEADY)
_NOTED: Final = "SELECT c.id, c.epoch, c.phase FROM c WHERE c.id IN ('phase', 'charter')"


async def note_phase(store: CosmosStore, instance: str, row: PhaseRow) -> None:
    """Note a phase that was opened, unless a later epoch is noted already.

    Args:
        store: the opened database.
        instance: which Postgres database it is recorded in.
        row: as it was opened.

    Raises:
        StoreUnavailableError: it may or may not have been noted; repeat.

    """
    name = store.own.control.name
    container = await store.existing_container_named(name, " of the relays' markers")
    noted = {"id": _PHASE, "instance": instance, "epoch": row.epoch, "phase": int(row.phase)}
    while True:
        try:
            if await _noted(container, noted):
                return
        except DRIVER_ERRORS as error:
            if not isinstance(failure_of(error), Exists | Changed | Missing):
                raise read_error(error, f"noting the phase in {name!r}") from error


async def read_noted_phase(store: CosmosStore) -> PhaseRow:
    """Return the newest phase that was noted by any Postgres, with the newest epoch; `cosmos_only`, epoch 1, if none.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer.

    """
    name = store.own.control.name
    container = store.container_named(name)
    try:
        await container.read()
        found: list[dict[str, Any]] = [item async for item in container.query_items(_NOTED)]
    except DRIVER_ERRORS as error:
        if getattr(error, "status_code", None) == NOT_FOUND:
            return _FIRST  # neither a step was ever made nor a relay started: they need the container
        raise read_error(error, f"reading the phase in {name!r}") from error
    phases = [(int(item["epoch"]), Phase(item["phase"])) for item in found if item["id"] == _PHASE]
    epochs = [int(item["epoch"]) for item in found]
    _, phase = max(phases, default=(_FIRST.epoch, _FIRST.phase))
    return PhaseRow(phase, max(epochs, default=_FIRST.epoch), PhaseState.STEADY)


async def noted_epoch(store: CosmosStore, instance: str) -> int:
    """Return the epoch of the phase that this Postgres noted last, 1 if it never noted any.

    What announces a step notes it last. The charter says less: relays and re-syncs raise its epoch, too.

    Raises:
        StoreUnavailableError: Cosmos DB did not answer.

    """
    name = store.own.control.name
    try:
        found = await store.container_named(name).read_item(_PHASE, partition_key=instance)
    except DRIVER_ERRORS as error:
        if getattr(error, "status_code", None) == NOT_FOUND:
            return _FIRST.epoch
        raise read_error(error, f"reading the phase in {name!r}") from error
    return int(found["epoch"])


async def _noted(container: ContainerProxy, noted: Document) -> bool:
    """Try once; return whether this epoch or a later one is noted now. Lets the client's errors through."""
    try:
        there = await container.read_item(_PHASE, partition_key=noted["instance"])
    except DRIVER_ERRORS as error:
        if not isinstance(failure_of(error), Missing):
            raise
        await container.create_item(noted)
        return True
    if int(there["epoch"]) < noted["epoch"]:
        await container.replace_item(_PHASE, noted, etag=there["_etag"], match_condition=MatchConditions.IfNotModified)
    return True
