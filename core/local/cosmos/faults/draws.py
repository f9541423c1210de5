"""Draws what happens to a request from the seed and from what the request is about, so that a failure replays."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Final

MAX_SUBJECTS: Final = 65_536


@dataclass(slots=True)
class Tally:
    """How many requests a rule has seen, and how many of them it has hit."""

    seen: int = 0
    hit: int = 0


class Draws:
    """A stream of random numbers per rule and subject of a request, none of which depends on the other streams.

    So requests about different subjects may come in any order, and each meets what it met before. The tallies of the
    subjects not seen for longest are forgotten beyond `MAX_SUBJECTS`: their streams begin again.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._tallies: dict[bytes, Tally] = {}

    def tally(self, rule: str, subject: str) -> tuple[Tally, Random]:
        """Return the tally of a rule for a subject, to be counted up by the caller, and its next random numbers."""
        name = f"{self.seed}\0{rule}\0{subject}".encode("utf-8", "surrogatepass")
        key = blake2b(name, digest_size=16).digest()
        tally = self._tallies.pop(key, None) or Tally()
        self._tallies[key] = tally
        if len(self._tallies) > MAX_SUBJECTS:
            del self._tallies[next(iter(self._tallies))]
        draw = blake2b(key + tally.seen.to_bytes(8, "big"), digest_size=16).digest()
        return tally, Random(int.from_bytes(draw, "big"))  # noqa: S311 - faults, not secrets
