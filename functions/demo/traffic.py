"""What people do while the demo runs: the example's use cases, concurrently, on keys that they share.

They go on while phases change, on whichever store is the primary then.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from core.domain import use_cases
from core.domain.account import Subscription, SubscriptionType
from core.domain.game_session import Choice
from core.domain.pending_signup import PendingSignup
from core.domain.use_cases.common import found
from core.domain.user_profile import Badge
from core.envelope import Origin
from core.errors import ConflictError, TransientError
from core.instant import Instant

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from core.repository import UnitOfWork
    from functions.demo.population import Population
    from functions.demo.recording import Recorder

WORKERS = 8
THINK_S = 0.06
_BEGINNING = datetime(2026, 2, 1, tzinfo=UTC)


class Traffic:
    """A number of people, each doing one thing after the other.

    Args:
        recorder: opens the units of work, on whichever store is primary.
        population: the keys to choose from.
        rng: where chance comes from.
        prefix: of new ids, different each time.

    """

    def __init__(self, recorder: Recorder, population: Population, rng: random.Random, prefix: str) -> None:
        self._recorder = recorder
        self._units = recorder.unit_of_work
        self._people = population
        self._rng = rng
        self._prefix = prefix
        self._serial = 0
        self.refused: Counter[str] = Counter()
        self._deeds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (6, self._register),
            (10, self._rename),
            (4, self._change_email),
            (8, self._log_in),
            (5, self._subscribe),
            (5, self._complete_scenario),
            (2, self._delete_account),
            (4, self._create_profile),
            (4, self._add_guest),
            (8, self._award_badge),
            (2, self._delete_profile),
            (8, self._sign_up),
            (6, self._verify),
            (6, self._change_key),
            (3, self._delete_signup),
            (8, self._start_session),
            (12, self._advance),
            (4, self._pause),
            (4, self._resume),
            (3, self._finish),
            (2, self._delete_session),
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Let everybody act until the event is set.

        Raises:
            CrossfeedError: what cannot happen here did, an unanswered write for example.

        """
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._act(stop))

    async def _act(self, stop: asyncio.Event) -> None:
        weights, deeds = zip(*self._deeds, strict=True)
        while not stop.is_set():
            [deed] = self._rng.choices(deeds, weights)
            try:
                await deed()
            except (ConflictError, TransientError, use_cases.NotAllowedError) as error:
                self.refused[type(error).__name__] += 1  # nothing was written, as these promise
            await asyncio.sleep(self._rng.expovariate(1 / THINK_S))

    async def _commit(self, step: Callable[[UnitOfWork], Awaitable[object]]) -> None:
        async def use_case(work: UnitOfWork) -> None:
            await step(work)
            await work.commit()

        await self._recorder.transact(use_case)

    def _new(self, kind: str) -> str:
        self._serial += 1
        return f"{kind}-{self._prefix}-{self._serial}"

    def _now(self) -> Instant:
        return Instant.at(_BEGINNING + timedelta(microseconds=self._serial * 1000 + self._rng.randrange(10**9)))

    def _word(self) -> str:
        return self._rng.choice(("Lee, Ann", "Zoë “Z” Ångström", "竜の騎士", "أميرة", "🐉 O'Neill", "plain"))

    # -- accounts

    async def _register(self) -> None:
        id_ = self._new("acc")
        await self._commit(
            lambda work: use_cases.register_account(
                work,
                id_=id_,
                email=f"{id_}@Example.com",
                auth0_user_id=f"auth0|{id_}",
                display_name=self._word(),
                now=self._now(),
            )
        )
        self._people.accounts.add(id_)

    async def _rename(self) -> None:
        if (id_ := self._people.accounts.any()) is not None:
            await self._commit(
                lambda work: use_cases.rename_account(
                    work, id_, display_name=f"{self._word()} {self._rng.randrange(999)}"
                )
            )

    async def _change_email(self) -> None:
        if (id_ := self._people.accounts.any()) is not None:
            await self._commit(
                lambda work: use_cases.change_account_email(work, id_, email=f"{self._new('mail')}@example.com")
            )

    async def _log_in(self) -> None:
        if (id_ := self._people.accounts.any()) is not None:
            await self._commit(lambda work: use_cases.log_in(work, id_, now=self._now()))

    async def _subscribe(self) -> None:
        if (id_ := self._people.accounts.any()) is not None:
            bought = Subscription(
                type=self._rng.choice(list(SubscriptionType)),
                product_id="mystira.stories",
                is_active=True,
                purchased_scenarios=[f"scenario-{self._rng.randrange(9)}"],
                end_date=Instant.parse("9999-12-31T23:59:59.9999999"),
            )
            await self._commit(lambda work: use_cases.subscribe(work, id_, subscription=bought))

    async def _complete_scenario(self) -> None:
        if (id_ := self._people.accounts.any()) is not None:
            await self._commit(
                lambda work: use_cases.complete_scenario(work, id_, scenario_id=f"scenario-{self._rng.randrange(30)}")
            )

    async def _delete_account(self) -> None:
        if (id_ := self._people.accounts.any()) is not None:
            await self._commit(lambda work: use_cases.delete_account(work, id_))
            self._people.accounts.remove(id_)

    # -- profiles

    async def _create_profile(self) -> None:
        if (account_id := self._people.accounts.any()) is not None:
            id_ = self._new("prof")
            name, now = self._word(), self._now()
            await self._recorder.in_parts(
                lambda: use_cases.create_profile(self._units, id_=id_, name=name, account_id=account_id, now=now)
            )
            self._people.profiles.add(id_)

    async def _add_guest(self) -> None:
        id_ = self._new("guest")
        await self._commit(lambda work: use_cases.add_guest(work, id_=id_, name=self._word(), now=self._now()))
        self._people.profiles.add(id_)

    async def _award_badge(self) -> None:
        if (id_ := self._people.profiles.any()) is not None:
            name = self._new("badge")
            badge = Badge(id=name, badge_configuration_id=name, badge_name=self._word(), threshold=0.1, trigger_value=3)
            await self._commit(lambda work: use_cases.award_badge(work, id_, badge=badge, now=self._now()))

    async def _delete_profile(self) -> None:
        if (id_ := self._people.profiles.any()) is not None:
            await self._commit(lambda work: use_cases.delete_profile(work, id_))
            self._people.profiles.remove(id_)

    # -- sign-ups

    async def _sign_up(self) -> None:
        id_ = self._new("signup")
        known = self._people.signups.any() if self._rng.random() < 0.3 else None  # noqa: PLR2004 - one in three
        email = known[0] if known is not None else f"{id_}@example.com"
        await self._commit(
            lambda work: use_cases.sign_up(
                work, id_=id_, email=email, display_name=self._word(), code="123456", now=self._now()
            )
        )
        self._people.signups.add((email, id_))

    async def _verify(self) -> None:
        if (key := self._people.signups.any()) is not None:
            code = self._rng.choice(("123456", "654321"))
            await self._commit(
                lambda work: use_cases.verify_code(work, email=key[0], code=code, now=Instant.at(_BEGINNING))
            )

    async def _change_key(self) -> None:
        """Move a sign-up to another e-mail, which is its partition key."""
        if (key := self._people.signups.any()) is None:
            return
        email, id_ = key
        moved = f"moved-{self._new('to')}@example.com"
        in_place = self._rng.random() < 0.5 and await self._change_key_in_place(id_, email, moved)  # noqa: PLR2004
        if not in_place:
            await self._recorder.in_parts(
                lambda: use_cases.change_signup_email(self._units, id_, email=email, new_email=moved)
            )
        self._people.signups.remove(key)
        self._people.signups.add((moved, id_))

    async def _change_key_in_place(self, id_: str, email: str, moved: str) -> bool:
        """Change it in one statement, as Postgres can; return whether it is done."""
        async with self._units() as work:
            if work.primary is not Origin.POSTGRES:
                return False
            signup = await found(work, PendingSignup, id_, email)
            signup.email = moved
            await work[PendingSignup].update(signup)
            await work.commit()
        return True

    async def _delete_signup(self) -> None:
        if (key := self._people.signups.any()) is not None:
            await self._commit(lambda work: use_cases.delete_signup(work, key[1], email=key[0]))
            self._people.signups.remove(key)

    # -- sessions

    async def _start_session(self) -> None:
        account_id, profile_id = self._people.accounts.any(), self._people.profiles.any()
        id_ = self._new("ses")
        await self._commit(
            lambda work: use_cases.start_session(
                work,
                id_=id_,
                account_id=account_id or "nobody",
                profile_id=profile_id or "",
                scenario_id=f"scenario-{self._rng.randrange(30)}",
                player_names=[self._word(), self._word()],
                now=self._now(),
            )
        )
        self._people.sessions.add((account_id or "nobody", id_))

    async def _advance(self) -> None:
        if (key := self._people.sessions.any()) is not None:
            choice = Choice(
                scene_id="scene",
                choice_text=self._word(),
                next_scene=f"scene-{self._serial}",
                compass_delta=self._rng.randrange(-8, 9) / 4,
                chosen_at=self._now(),
            )
            await self._commit(lambda work: use_cases.advance_session(work, key[1], account_id=key[0], choice=choice))

    async def _pause(self) -> None:
        if (key := self._people.sessions.any()) is not None:
            await self._commit(lambda work: use_cases.pause_session(work, key[1], account_id=key[0], now=self._now()))

    async def _resume(self) -> None:
        if (key := self._people.sessions.any()) is not None:
            await self._commit(lambda work: use_cases.resume_session(work, key[1], account_id=key[0]))

    async def _finish(self) -> None:
        if (key := self._people.sessions.any()) is not None:
            await self._commit(
                lambda work: use_cases.finish_session(
                    work, key[1], account_id=key[0], now=Instant.at(_BEGINNING + timedelta(days=90))
                )
            )

    async def _delete_session(self) -> None:
        if (key := self._people.sessions.any()) is not None:
            await self._commit(lambda work: use_cases.delete_session(work, key[1], account_id=key[0]))
            self._people.sessions.remove(key)
