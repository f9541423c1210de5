"""Who lives in the demo: the keys that writers choose from, recent ones more often, so that they meet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import random

    from core.content import Document

K = TypeVar("K")

HOT = 24
"""How many recent keys get half of the traffic."""


class Keys(Generic[K]):
    """The keys of one kind of document."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._keys: list[K] = []

    def add(self, key: K) -> None:
        """A document with this key came to be."""
        self._keys.append(key)

    def remove(self, key: K) -> None:
        """The document is gone."""
        if key in self._keys:
            self._keys.remove(key)

    def any(self) -> K | None:
        """Choose a key; None if there is none."""
        if not self._keys:
            return None
        start = max(0, len(self._keys) - HOT) if self._rng.random() < 0.5 else 0  # noqa: PLR2004 - half
        return self._keys[self._rng.randrange(start, len(self._keys))]


@dataclass(slots=True)
class Population:
    """All keys: accounts and profiles by id, sign-ups by (e-mail, id), sessions by (account, id)."""

    rng: random.Random
    accounts: Keys[str] = field(init=False)
    profiles: Keys[str] = field(init=False)
    signups: Keys[tuple[str, str]] = field(init=False)
    sessions: Keys[tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        self.accounts, self.profiles = Keys(self.rng), Keys(self.rng)
        self.signups, self.sessions = Keys(self.rng), Keys(self.rng)

    def settle(self, documents: dict[str, list[Document]]) -> None:
        """Take in the documents that were loaded."""
        for document in documents["Accounts"]:
            self.accounts.add(document["id"])
        for document in documents["UserProfiles"]:
            self.profiles.add(document["id"])
        for document in documents["PendingSignups"]:
            self.signups.add((document["email"], document["id"]))
        for document in documents["GameSessions"]:
            self.sessions.add((document["accountId"], document["id"]))
