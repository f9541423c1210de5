"""The entries in Redis, by what may happen to them; see `scripts` for how they are kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from core.cache import scripts
from core.cache.call import Call
from core.stamp import Stamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from core.cache.call import Caller
    from core.identity import Identity
    from core.lookup import Lookup

CLOSED_S: Final = 2.0
"""How long an entry stays closed to fills after a write whose place in the order is not known, in seconds."""


@dataclass(frozen=True, slots=True)
class Hit:
    """An entry.

    Attributes:
        age_s: seconds since its load began, when Redis answered.
        since: names this very entry.
        stamp: of the state; None where it has none.
        body: what was loaded; None: there was nothing.

    """

    age_s: float
    since: bytes
    stamp: Stamp | None
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Loading:
    """Somebody else is loading, since so many seconds."""

    age_s: float


class Answer(Enum):
    """What to do where there is no entry."""

    LEAD = "the token is mine: load, then fill"
    BYPASS = "load, and do not fill"


@dataclass(frozen=True, slots=True)
class Kept:
    """What of a load is kept.

    Attributes:
        body: empty: there was nothing.
        stamp: of an entity.
        ttl_s: for how long, in seconds.

    """

    body: bytes
    stamp: Stamp | None
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """A write, as an entry is told of it.

    Attributes:
        key: of the entry.
        stamp: of the write; None: unknown.
        gone: whether it was a delete.
        instead: whether the new state does not come after the one before by its stamp (a foreign writer was between).
        keep: the body that is right still; for look-ups.
        settled: whether all loads from now on see the write, though its stamp is unknown.

    """

    key: str
    stamp: Stamp | None = None
    gone: bool = False
    instead: bool = False
    keep: bytes = b""
    settled: bool = False


class Entries:
    """All entries of one installation.

    Args:
        caller: calls Redis.
        prefix: of all keys.
        load_s: how long a load may take that is to be kept, in seconds.
        floor_s: how long the newest known stamp is remembered, in seconds.

    """

    def __init__(self, caller: Caller, prefix: str, *, load_s: float, floor_s: float) -> None:
        self._caller = caller
        self._prefix = prefix
        self._load_ms = round(load_s * 1000)
        self._floor_ms = round(floor_s * 1000)

    def key(self, identity: Identity) -> str:
        """Return the key of an entity's entry; ids may be personal data, so they do not stand in it."""
        return self._named(identity.entity, "", identity.partition_key, identity.id)

    def lookup_key(self, entity: str, lookup: Lookup, value: str) -> str:
        """Return the key of a look-up's entry; `value` is spelled by the look-up."""
        return self._named(entity, lookup.field, str(lookup.ignore_case), value)

    def _named(self, entity: str, *parts: str) -> str:
        spelled = "".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogatepass")
        return f"{self._prefix}:{entity}:{hashlib.blake2b(spelled, digest_size=16).hexdigest()}"

    async def look(self, key: str, token: str, epoch: int) -> Hit | Loading | Answer:
        """Return the entry, or what to do instead.

        Args:
            key: of the entry.
            token: drawn for this load.
            epoch: of the phase in which the caller reads; entries of another one are not for it.

        """
        answer = await self._caller.one(Call(scripts.LOOK, key, (token, self._load_ms, epoch)))
        match answer:
            case [b"hit", int(age_ms), bytes(since), bytes(its_epoch), bytes(version), bytes(body)]:
                try:
                    stamp = Stamp(int(its_epoch), int(version)) if version else None
                except ValueError:
                    return Answer.BYPASS
                return Hit(age_ms / 1000, since, stamp, body or None)
            case [b"lead"]:
                return Answer.LEAD
            case [b"wait", int(age_ms)]:
                return Loading(age_ms / 1000)
            case _:
                return Answer.BYPASS

    async def fill(self, key: str, token: str, epoch: int, kept: Kept) -> bool:
        """Keep what was loaded, if it is still worth it; return whether.

        Args:
            key: of the entry.
            token: that of `look`.
            epoch: that of `look`.
            kept: what was loaded.

        """
        stamp, body = kept.stamp, kept.body
        kind = "found" if stamp is not None else "pointer" if body else "absent"
        place = ("", "") if stamp is None else stamp
        arguments = (token, round(kept.ttl_s * 1000), epoch, kind, *place, body)
        return bool(await self._caller.one(Call(scripts.FILL, key, arguments)))

    async def release(self, key: str, token: str) -> None:
        """Give the token back, so that nobody waits for it."""
        await self._caller.one(Call(scripts.RELEASE, key, (token,)))

    async def refuse(self, refused: Mapping[str, bytes]) -> None:
        """Remove exactly these entries, each by its key and `since`: they are older than what is known."""
        await self._caller.many([Call(scripts.REFUSE, key, (since,)) for key, since in refused.items()])

    async def change(self, changes: Sequence[Change]) -> list[int | None] | None:
        """Take away what is older than these writes; return how many entries that were for each, None if refused.

        None for all: Redis did not answer.
        """
        return await self._caller.many([self._call(change) for change in changes])

    def _call(self, change: Change) -> Call:
        stamp = change.stamp
        how = "unknown" if stamp is None else "instead" if change.instead else "after"
        epoch, version = stamp or (0, 0)
        closed_ms = 0 if change.settled else round(CLOSED_S * 1000)
        arguments = (how, epoch, version, int(change.gone), self._floor_ms, closed_ms, change.keep)
        return Call(scripts.CHANGE, change.key, arguments)
