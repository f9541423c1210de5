"""What the tests of relay and mirror under faults share: drawn weather, and all versions that Cosmos DB held."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from hypothesis import strategies as st

from core.local.cosmos.faults import (
    READS,
    WRITES,
    Budget,
    ByTime,
    ByVersions,
    Constant,
    Cut,
    Delay,
    Down,
    Hold,
    Lag,
    Match,
    Operation,
    Refuse,
    Rule,
    Uniform,
)

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore
    from core.local.cosmos.server import CosmosServer
    from core.mapping import EntityMapping

DOCUMENTS = WRITES | READS
EVENTS = ("none", "split", "clock back", "clock on")

_TURNED_AWAY = [Refuse(status=status) for status in (408, 449, 500, 502, 503)]
_TURNED_AWAY += [Refuse(status=429, retry_after_ms=ms) for ms in (1, 60)]
_TURNED_AWAY += [Refuse(status=403, substatus=3)]
# Not of the ranges themselves: the client (4.17.1) then waits for a lock of its own, for ever.
_MOVED = [Refuse(status=410, substatus=substatus) for substatus in (1002, 1007)]
_HIDDEN = [Refuse(status=status, moment="after") for status in (408, 500, 502, 503)]
_CUTS = [Cut(moment="before"), Cut(moment="after"), Cut(moment="middle")]
_LATE = [Hold(client=client, seconds=seconds) for client in ("cut", "timeout", "waits") for seconds in (0.03, 0.2)]
_SLOW = [Delay(duration=Uniform(most=0.03), moment=moment) for moment in ("before", "after")]
_OLD = [
    Lag(behind=ByVersions(least=0, most=3)),
    Lag(behind=ByVersions(least=1, most=20)),
    Lag(behind=ByTime(duration=Constant(seconds=0.1))),
]
_OF_READS = [Refuse(status=404, substatus=1002), *_OLD]
_TIGHT = [Budget(ru_per_second=300, burst=40, per="container"), Budget(ru_per_second=150, burst=20), Down()]


def _rules() -> st.SearchStrategy[Rule]:
    aims = st.sampled_from(
        [DOCUMENTS, WRITES, READS, {Operation.CREATE}, {Operation.REPLACE}, {Operation.READ}, {Operation.FEED}]
    )
    ranges = st.sampled_from([None, None, "0", "1"])
    of_any = st.builds(
        lambda do, aim, of, chance: Rule(do=do, on=Match(operations=frozenset(aim), range_id=of), probability=chance),
        st.sampled_from([*_TURNED_AWAY, *_MOVED, *_HIDDEN, *_CUTS, *_LATE, *_SLOW]),
        aims,
        ranges,
        st.sampled_from([0.1, 0.3, 1.0]),
    )
    of_reads = st.builds(lambda do: Rule(do=do, on=Match(operations=READS)), st.sampled_from(_OF_READS))
    of_all = st.builds(
        lambda do, of: Rule(do=do, on=Match(operations=DOCUMENTS, range_id=of)), st.sampled_from(_TIGHT), ranges
    )
    around = st.builds(
        lambda do, chance: Rule(
            do=do, on=Match(operations=frozenset({Operation.RANGES, Operation.READ_CONTAINER})), probability=chance
        ),
        st.sampled_from([*_TURNED_AWAY, *_CUTS]),
        st.sampled_from([0.3, 1.0]),
    )
    return st.one_of(of_any, of_any, of_any, of_reads, of_all, around)


@dataclass(frozen=True)
class Spell:
    """Some faults at a time, and what happens in the middle of them."""

    rules: tuple[Rule, ...]
    event: str


def weather(spells: int) -> st.SearchStrategy[list[Spell]]:
    """Draw what the next seconds will be like."""
    one = st.builds(Spell, st.lists(_rules(), min_size=1, max_size=3).map(tuple), st.sampled_from(EVENTS))
    return st.lists(one, min_size=1, max_size=spells)


async def pass_through(
    server: CosmosServer, store: CosmosStore, spells: list[Spell], seed: int, spell_s: float
) -> None:
    """Let the weather happen, and then be over: what was held back is applied, the clock is right again."""
    server.faults.seed = seed
    for spell in spells:
        for rule in spell.rules:
            server.faults.add(rule)
        await asyncio.sleep(spell_s / 2)
        _happen(server, store, spell.event)
        await asyncio.sleep(spell_s / 2)
        server.faults.held.release_all()
        server.faults.clear()
    server.account.clock.offset = 0.0


def _happen(server: CosmosServer, store: CosmosStore, event: str) -> None:
    match event:
        case "split":
            for container in server.account.database(store.database).containers.values():
                if len(container.partitions) < 6:
                    container.split(container.partitions[0].id)
        case "clock back":
            server.account.clock.advance(-7)
        case "clock on":
            server.account.clock.advance(5)


def keep_versions(server: CosmosServer, store: CosmosStore) -> None:
    """Keep every version from now on, as the feed of all versions and deletes shows them."""
    for container in server.account.database(store.database).containers.values():
        container.keep_history()


def all_versions(server: CosmosServer, store: CosmosStore, mapping: EntityMapping[Any]) -> dict[Any, list[Any]]:
    """Return every version of each document, in their order, by identity."""
    found: dict[Any, list[Any]] = defaultdict(list)
    for partition in server.account.container(store.database, mapping.container).partitions:
        for entry in partition.history:
            if entry.new is not None:
                document = orjson.loads(entry.new)
                found[mapping.identity(document)].append(document)
    return found
