"""Puts states aside that failed for a reason of their own, tries them again later, and gives up on them in the end.

A parked state is one row per document. It is no copy: what is sent again is the document's current state, so a newer
state supersedes it, wherever that one arrives first. How a page of a group ends, and how a retry does:

    begin -> hold(tokens) -> park_states(...), settle(...) -> advance(...) -> commit        a page
    begin -> hold(tokens) -> resolve_states(...) -> commit                                  what was due

`hold` is the fence: without it a relay that slept could forget the failure of a state newer than the one it has sent.
It also serializes the two, which run side by side in one relay. States are retried only where `log_reader.sends`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from core.identity import Identity
from core.postgres import dead_letters
from core.postgres.backoff import BACKOFF, DUE
from core.postgres.dead_letters import Direction, identity_columns, storable
from core.postgres.names import KEY_DIGEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from core.settings import Settings


@dataclass(frozen=True, slots=True)
class ParkingPolicy:
    """How often and how soon what failed is tried again.

    Args:
        attempts: refusals after which it is a dead letter.
        first_s: the longest first wait in seconds; it doubles with every refusal.
        longest_s: the longest wait of all in seconds.
        idle_s: seconds after which Postgres ends a transaction of a relay that was stopped in the middle of it.

    """

    attempts: int
    first_s: float
    longest_s: float
    idle_s: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return what the settings say."""
        return cls(
            settings.relay_attempts, settings.relay_retry_first_s, settings.relay_retry_max_s, settings.relay_lease_s
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a document did not arrive.

    `counts`: it is its own fault; what is the infrastructure's never uses up an attempt. `retry_after_s` is the least
    wait that the store asked for, in seconds. `traceparent` names the trace of its newest write, if that had one.
    """

    identity: Identity
    reason: str
    counts: bool
    retry_after_s: float = 0.0
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class DueState:
    """A parked document to try again. `number` and `seen` say which version of its parked row was read."""

    identity: Identity
    number: int
    seen: int
    traceparent: str | None


# Sorted, so that two transactions of one relay cannot wait for each other. The timeout is what lets others take these
# slots over from a process that was stopped between here and its commit.
_HOLD = """
    SELECT set_config('idle_in_transaction_session_timeout', %(idle_ms)s, true), (
        SELECT count(*) FROM (
            SELECT FROM crossfeed.slot s JOIN unnest(%(slots)s::smallint[], %(tokens)s::bigint[]) AS mine(slot, token)
                ON s.slot = mine.slot AND s.token = mine.token
            ORDER BY s.slot FOR NO KEY UPDATE OF s
        ) AS held
    )
"""

AGAIN = BACKOFF.format(attempts="(p.attempts + excluded.attempts)", age="clock_timestamp() - p.first_at")
"""The same for what was parked before."""

_PARK = f"""
    INSERT INTO crossfeed.parked AS p (slot, entity, partition_key, id, traceparent, reason, attempts, retry_at)
    SELECT crossfeed.slot_of(f.entity, f.partition_key, f.id), f.entity, f.partition_key, f.id, f.traceparent, f.reason,
        f.counts::int, clock_timestamp() + greatest(make_interval(secs => least(f.retry_after_s, %(longest_s)s)),
            {BACKOFF.format(attempts=1, age="interval '0'")})
    FROM unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[], %(reasons)s::text[], %(counts)s::boolean[],
        %(retry_after_s)s::float8[], %(traceparents)s::text[])
        AS f(entity, partition_key, id, reason, counts, retry_after_s, traceparent)
    ON CONFLICT (entity, {KEY_DIGEST}) WHERE event_id IS NULL DO UPDATE SET reason = excluded.reason,
        traceparent = excluded.traceparent, attempts = p.attempts + excluded.attempts, last_at = clock_timestamp(),
        retry_at = greatest(excluded.retry_at, clock_timestamp() + {AGAIN})
    RETURNING p.number, p.attempts, p.entity, p.partition_key, p.id
"""

_BURY = f"""
    WITH dead AS (DELETE FROM crossfeed.parked WHERE number = ANY(%(numbers)s::bigint[]) RETURNING *)
    INSERT INTO crossfeed.dead_letter AS l (direction, kind, entity, partition_key, id, reference, reason, document,
        attempts, first_at, last_at, seq, traceparent)
    SELECT 'to_cosmos', CASE WHEN event_id IS NULL THEN 'refused' ELSE 'event' END, entity, partition_key, id,
        coalesce(event_id, ''), reason, event, attempts, first_at, last_at, seq, traceparent
    FROM dead
    ON CONFLICT (direction, kind, entity, {KEY_DIGEST}, reference) DO UPDATE SET reason = excluded.reason,
        document = excluded.document, attempts = l.attempts + excluded.attempts, last_at = excluded.last_at,
        seq = excluded.seq, traceparent = excluded.traceparent
"""

_SETTLE = """
    DELETE FROM crossfeed.parked p
    USING unnest(%(entities)s::text[], %(keys)s::text[], %(ids)s::text[]) AS done(entity, partition_key, id)
    WHERE p.event_id IS NULL AND p.entity = done.entity
        AND md5(p.partition_key || p.id)::uuid = md5(done.partition_key || done.id)::uuid
        AND p.partition_key = done.partition_key AND p.id = done.id
"""

DUE_STATES = f"""
    SELECT p.entity, p.partition_key, p.id, p.number, p.xmin::text::bigint, p.traceparent
    FROM crossfeed.parked p
    WHERE p.slot = ANY(%(slots)s::smallint[]) AND p.event_id IS NULL AND {DUE}
    ORDER BY p.retry_at LIMIT %(limit)s
"""

_AS_SEEN = """
    SELECT p.number FROM crossfeed.parked p
    JOIN unnest(%(numbers)s::bigint[], %(seen)s::bigint[]) AS due(number, seen)
        ON p.number = due.number AND p.xmin::text::bigint = due.seen
    ORDER BY p.number FOR UPDATE OF p
"""


async def give_up_when_idle(connection: AsyncConnection, policy: ParkingPolicy) -> None:
    """Let Postgres end the caller's transaction if its process is stopped in the middle: its locks would stay."""
    statement = "SELECT set_config('idle_in_transaction_session_timeout', %(idle_ms)s, true)"
    await connection.exec_driver_sql(statement, {"idle_ms": str(max(1, round(policy.idle_s * 1000)))})


async def hold(connection: AsyncConnection, tokens: Mapping[int, int], policy: ParkingPolicy) -> bool:
    """Lock slots until the caller's transaction ends, which has to follow at once; call it first in there.

    Args:
        connection: in a transaction.
        tokens: the fencing token of each slot.
        policy: says how long the transaction may sit idle.

    Returns:
        False: another relay has taken at least one of them; roll back.

    """
    parameters = {
        "slots": list(tokens),
        "tokens": list(tokens.values()),
        "idle_ms": str(max(1, round(policy.idle_s * 1000))),
    }
    result = await connection.exec_driver_sql(_HOLD, parameters)
    _, held = tuple(result.one())
    return bool(held == len(tokens))


async def park_states(
    connection: AsyncConnection, failures: Sequence[Failure], policy: ParkingPolicy
) -> list[Identity]:
    """Park documents that were not delivered, in the caller's transaction, which holds their slots.

    Two statements at most, however many they are.

    Returns:
        Those that became dead letters by it.

    """
    if not failures:
        return []
    once = list({failure.identity: failure for failure in failures}.values())
    result = await connection.exec_driver_sql(
        _PARK,
        {
            **identity_columns(failure.identity for failure in once),
            "reasons": [storable(failure.reason) for failure in once],
            "counts": [failure.counts for failure in once],
            "retry_after_s": [failure.retry_after_s for failure in once],
            "traceparents": [failure.traceparent for failure in once],
            "first_s": policy.first_s,
            "longest_s": policy.longest_s,
        },
    )
    dead = [
        (number, Identity(*names)) for number, attempts, *names in map(tuple, result) if attempts >= policy.attempts
    ]
    await bury(connection, [number for number, _ in dead])
    return [identity for _, identity in dead]


async def settle(connection: AsyncConnection, identities: Sequence[Identity]) -> None:
    """Forget what is parked and dead of documents whose state was delivered by a page of the log.

    In the transaction that moves the cursor past the page, which holds their slots: whatever failed of a newer state
    has a message behind that cursor. It may be left out where nothing was parked or dead when the page before had been
    recorded; what was known earlier, at a prefetch say, is too old for that.
    """
    if not identities:
        return
    await connection.exec_driver_sql(_SETTLE, identity_columns(identities))
    await dead_letters.settle(connection, Direction.TO_COSMOS, identities)


async def due_states(
    connection: AsyncConnection, slots: Sequence[int], limit: int, policy: ParkingPolicy
) -> list[DueState]:
    """Return parked documents of slots that are to be tried again now, the longest due first."""
    parameters = {"slots": list(slots), "limit": limit, "longest_s": policy.longest_s}
    result = await connection.exec_driver_sql(DUE_STATES, parameters)
    return [DueState(Identity(*row[:3]), *row[3:]) for row in map(tuple, result)]


async def resolve_states(
    connection: AsyncConnection, due: Sequence[DueState], failures: Sequence[Failure], policy: ParkingPolicy
) -> list[Identity]:
    """Record what became of due documents: those not among the `failures` have arrived, or are held no more.

    What a page of the log said about one of them meanwhile is newer, and stays.

    Args:
        connection: in a transaction that holds their slots.
        due: what was tried.
        failures: of those that failed again.
        policy: says when to give up.

    Returns:
        Those that became dead letters by it.

    """
    if not due:
        return []
    parameters = {"numbers": [item.number for item in due], "seen": [item.seen for item in due]}
    as_seen = {number for (number,) in await connection.exec_driver_sql(_AS_SEEN, parameters)}
    tried = {item.identity for item in due if item.number in as_seen}
    failed = [failure for failure in failures if failure.identity in tried]
    await settle(connection, sorted(tried.difference(failure.identity for failure in failed)))
    return await park_states(connection, failed, policy)


async def bury(connection: AsyncConnection, numbers: Sequence[int]) -> None:
    """Turn parked rows into dead letters, in the caller's transaction."""
    if numbers:
        await connection.exec_driver_sql(_BURY, {"numbers": list(numbers)})
