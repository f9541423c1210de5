"""What is asked of Cosmos DB: its containers, whether this identity may write, and whether it knows of the phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from azure.core import MatchConditions

from core.cosmos.containers import TTL_BY_DOCUMENT, problems_of, problems_of_own
from core.cosmos.failures import DRIVER_ERRORS, NOT_FOUND
from core.errors import HistoryLostError
from core.migration.announcing import is_announced
from core.migration.preflight_cosmos import MAX_SKEW_S, clock_skews
from core.phases import Phase
from functions.doctor.findings import Examined, Finding, Level, answer, skipped
from outbox.lineage import judged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from core.cosmos.client import CosmosStore
    from functions.doctor.patient import Account, Both

NOBODY: Final = "crossfeed-doctor"
"""An id that no document has."""
_FORBIDDEN: Final = (401, 403)


async def ask_containers(account: Account) -> Examined:
    """Whether every container is there, with the mapping's key, and with TTL on."""
    findings: list[Finding] = []
    for mapping in account.mappings or ():
        properties = await account.store.look(mapping.container)
        findings += _found(problems_of(mapping, properties), account, mapping.container, properties)
        if properties is not None and properties.get("defaultTtl") not in {None, TTL_BY_DOCUMENT}:
            findings.append(_expiring(mapping.container, properties["defaultTtl"]))
    own = [*account.store.own, *([account.store.own.leases] if account.uses_functions else [])]
    for container in own:
        properties = await account.store.look(container.name)
        findings += _found(problems_of_own(container, properties), account, container.name, properties)
        if properties is not None and properties.get("defaultTtl") is None:
            findings.append(_immortal(container.name, container.holds))
    names = [mapping.container for mapping in account.mappings or ()] + [container.name for container in own]
    return answer("containers", findings, f"{len(names)} are there, with their keys and TTL")


def _found(
    problems: list[str], account: Account, container: str, properties: Mapping[str, Any] | None
) -> list[Finding]:
    where = f"container {container} of database {account.settings.cosmos_database}"
    if properties is None:
        functions = " --functions" if account.uses_functions else ""
        why = "no relay, no mirror and no application starts without it"
        cure = f"run: crossfeed provision{functions}"
        return [Finding(problem.partition(": create")[0], where, why, cure) for problem in problems]
    found = []
    for problem in problems:
        what, _, cure = problem.partition(": ")
        if "TTL" in problem:
            why = "tombstones would stay for ever, and deleted documents with them"
        elif "unique keys" in problem:
            why, cure = "a tombstone would take a value that a document needs", f"name them in the mapping: {cure}"
        else:
            why, cure = "documents would be written where nobody finds them", cure or "make a new container, and move"
        found.append(Finding(what, where, why, cure))
    return found


def _expiring(container: str, ttl: int) -> Finding:
    return Finding(
        f"documents without a ttl expire after {ttl} s",
        f"container {container}",
        "what expires is in no feed: its row stays until a reconcile round finds that",
        f"set the container's default TTL to {TTL_BY_DOCUMENT} (on, no default), unless that is meant",
        Level.WARNING,
    )


def _immortal(container: str, holds: str) -> Finding:
    return Finding(
        "has no TTL",
        f"container {container} of {holds}",
        "what carries a ttl there is never removed",
        f"set the container's default TTL to {TTL_BY_DOCUMENT} (on, no default)",
        Level.WARNING,
    )


async def ask_access(account: Account) -> Examined:
    """Whether this identity may write: replaces a document that nobody has, which changes nothing."""
    mapped = [] if account.mappings is None else account.mappings.containers
    containers = [*mapped, *(container.name for container in account.store.own)]
    findings = []
    for name in containers:
        status = await _try_to_replace(account.store, name)
        if status in _FORBIDDEN:
            findings.append(
                Finding(
                    f"this identity may read, but not write ({status})",
                    f"container {name}",
                    "relay and repositories are refused; nothing that was written in Postgres arrives",
                    "give it the account's key, or the role Cosmos DB Built-in Data Contributor:"
                    " az cosmosdb sql role assignment create",
                )
            )
        elif status not in {NOT_FOUND, None}:
            what = f"a write that changes nothing is answered with {status}"
            cure = "see what the account says of itself in the portal; then run: crossfeed doctor"
            findings.append(Finding(what, f"container {name}", "writes may be refused", cure, Level.WARNING))
    return answer("access", findings, f"may write to {len(containers)} containers")


async def _try_to_replace(store: CosmosStore, container: str) -> int | None:
    """Return the status that a write is answered with; None where no connection was to be had."""
    try:
        await store.container_named(container).replace_item(
            NOBODY, {"id": NOBODY}, etag='"0"', match_condition=MatchConditions.IfNotModified
        )
    except DRIVER_ERRORS as error:
        return getattr(error, "status_code", None)
    return None


async def ask_clocks(both: Both) -> Examined:
    """Whether the clocks of this machine and of both stores agree."""
    skews = await clock_skews(both.installed.engine, both.store)
    findings = [
        Finding(
            f"{name} is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}",
            "the clocks",
            "lags, windows and tombstones' ages are wrong by that much; a reconcile may believe what is not so yet",
            "set the clocks of this machine and of the database server (NTP): timedatectl set-ntp true",
        )
        for name, skew in skews.items()
        if abs(skew) > MAX_SKEW_S
    ]
    return answer("clocks", findings, ", ".join(f"{name} {skew:+.1f} s" for name, skew in skews.items()))


async def ask_announced(both: Both) -> Examined:
    """Whether processes without Postgres can know that phase 0 is over."""
    row = both.installed.phase
    if row.phase is not Phase.DUAL_WRITE_COSMOS_READ:
        return skipped("announced", f"not asked in {row.phase.label}")
    findings = []
    if not await is_announced(both.installed.engine, both.store, row):
        findings.append(
            Finding(
                f"Cosmos DB was not told of epoch {row.epoch}",
                f"container {both.store.own.control.name}",
                "a process of cosmos_only may still start without Postgres, and no switch would stop it",
                "run: crossfeed phase resume",
            )
        )
    return answer("announced", findings, f"Cosmos DB knows of epoch {row.epoch}")


async def ask_history(both: Both) -> Examined:
    """Whether Postgres still has what was sent: a restore, or a promotion with losses, takes commits away."""
    findings = []
    async with both.installed.engine.connect() as connection:
        try:
            await judged(connection, both.store, both.installed.settings.control_container)
        except HistoryLostError as error:
            findings.append(
                Finding(
                    str(error),
                    "the log of Postgres, against the markers in Cosmos DB",
                    "relays stop rather than send what is older than what was sent",
                    "stop whatever else sends to this Cosmos DB; then run: crossfeed outbox resync --dry-run",
                )
            )
    return answer("history", findings, "Postgres has all that was sent")
