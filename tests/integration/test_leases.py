"""Leases and fencing: one holder a slot, whoever comes, goes, dies or sleeps; the clocks are the test's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.postgres.leases import MARGIN, LeaseLostError
from outbox.cursor import Carries, advance
from outbox.leases import Leases, grouped
from tests.integration.relay_steps import run

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.settings import Settings
    from outbox.leases import Lease

LEASE_S = 10.0
SLOTS = 16
"""Of each kind."""
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["beat", "beat", "beat", "release", "leave", "die", "set back"]), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.integers(1, 12)),
    ),
    min_size=5,
    max_size=40,
)


@dataclass
class World:
    """Relays in one process. Time passes when the test says so, for their clocks and for the leases in Postgres."""

    engine: AsyncEngine
    settings: Settings
    now: float = 0.0
    relays: dict[int, Leases] = field(default_factory=dict)

    def relay(self, number: int) -> Leases:
        if number not in self.relays:
            self.relays[number] = Leases(self.engine, self.settings, lambda: self.now, f"relay {number}")
        return self.relays[number]

    async def wait(self, seconds: float) -> None:
        self.now += seconds
        await run(self.engine, f"UPDATE crossfeed.relay SET expires_at = expires_at - make_interval(secs => {seconds})")

    async def step(self, what: str, number: int) -> None:
        match what:
            case "wait":
                await self.wait(number)
            case "beat":
                await self.relay(number).renew()
            case "release":
                await self.relay(number).release(self.relay(number).surplus)
            case "leave":
                await self.relay(number).hand_over()
            case "die":
                self.relays.pop(number, None)
            case "set back":
                await run(self.engine, f"UPDATE crossfeed.slot SET token = token + 1 WHERE slot = {number}")

    async def settle(self) -> None:
        """Let every relay beat and let its surplus go until nothing changes any more."""
        for _ in range(3):
            for relay in self.relays.values():
                await relay.renew()
                await relay.release(relay.surplus)

    def acting(self) -> list[Lease]:
        """Return what is held by relays that may act now."""
        return [lease for relay in self.relays.values() if relay.left_s > 0 for lease in relay.held]


@pytest.fixture
async def world(engine: AsyncEngine, settings: Settings) -> World:
    return World(engine, settings.model_copy(update={"relay_lease_s": LEASE_S}))


async def store(world: World, lease: Lease) -> bool:
    """Try to move the cursor of one slot to where it is."""
    [group] = grouped([lease])
    async with world.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        return await advance(connection, group, group.cursor)


@given(steps=STEPS)
@hypothesis_settings(max_examples=12)
async def test_no_slot_ever_has_two_relays_that_may_act_for_it_and_only_the_newest_token_moves_a_cursor(
    engine: AsyncEngine, settings: Settings, steps: list[tuple[str, int]]
) -> None:
    await run(engine, "DELETE FROM crossfeed.relay")
    world = World(engine, settings.model_copy(update={"relay_lease_s": LEASE_S}))
    ever: dict[int, Lease] = {}
    for what, number in steps:
        await world.step(what, number)
        acting = world.acting()
        slots = [lease.slot for lease in acting]
        assert len(slots) == len(set(slots))
        for lease in acting:
            known = ever.get(lease.slot, lease)
            if known.token != lease.token:
                assert known.token < lease.token
                assert not await store(world, known)
            ever[lease.slot] = lease
    await world.wait(LEASE_S * 2)
    world.relays = {number: world.relay(number) for number in range(3)}
    await world.settle()
    assert sorted(lease.slot for lease in world.acting()) == list(range(2 * SLOTS))
    for relay in world.relays.values():
        for kind in Carries:
            assert len([lease for lease in relay.held if lease.carries is kind]) <= -(-SLOTS // 3)


async def test_a_relay_that_heard_nothing_for_a_lease_stops_before_another_may_begin(world: World) -> None:
    first, second = world.relay(1), world.relay(2)
    await first.renew()
    [states, _] = grouped(first.held)
    check = first.guard(states)
    await world.wait(LEASE_S * (1 - MARGIN) - 0.1)
    check()
    await second.renew()
    assert second.held == ()
    await world.wait(0.2)
    with pytest.raises(LeaseLostError):
        check()
    await second.renew()
    assert second.held == ()  # nobody acts in the margin
    await world.wait(LEASE_S * MARGIN)
    await second.renew_if_due()
    assert len(second.held) == 2 * SLOTS
    await first.renew()
    with pytest.raises(LeaseLostError):
        check()  # alive again, but its slots are another's
    async with world.engine.begin() as connection:
        assert not await advance(connection, states, states.cursor)


async def test_a_relay_that_slept_and_that_nobody_missed_keeps_its_slots_and_tokens(world: World) -> None:
    relay = world.relay(1)
    await relay.renew()
    before = relay.held
    await world.wait(LEASE_S * 10)
    await relay.renew()
    assert relay.held == before


async def test_what_a_relay_lets_go_when_it_stops_is_anothers_at_its_next_look(world: World) -> None:
    first, second = world.relay(1), world.relay(2)
    await first.renew()
    await second.renew()
    await first.hand_over()
    await second.renew_if_due()  # long before a heartbeat is due
    assert len(second.held) == 2 * SLOTS
    assert first.held == ()


async def test_relays_that_come_and_go_have_fair_shares_of_both_kinds(world: World) -> None:
    for relays in (1, 2, 3, 5, 2):
        for number in [number for number in world.relays if number >= relays]:
            await world.relays.pop(number).hand_over()
        for number in range(relays):
            world.relay(number)
        await world.settle()
        shares = sorted(
            sum(lease.carries is kind for lease in relay.held) for relay in world.relays.values() for kind in Carries
        )
        assert sum(shares) == 2 * SLOTS
        assert shares[-1] == -(-SLOTS // relays)


async def test_a_relay_looks_without_writing_and_beats_when_it_has_something_to_win(
    world: World, engine: AsyncEngine
) -> None:
    async def digest() -> int:
        async with engine.connect() as connection:
            found = await connection.exec_driver_sql(
                "SELECT sum(hashtextextended(ctid::text || xmin::text, 0)) FROM"
                " (SELECT ctid, xmin FROM crossfeed.slot UNION ALL SELECT ctid, xmin FROM crossfeed.relay) AS _"
            )
            return int(found.scalar_one())

    first, second = world.relay(1), world.relay(2)
    await first.renew()
    before = await digest()
    await first.renew_if_due()
    assert await digest() == before
    await second.renew()
    await first.renew_if_due()  # somebody came: its share is smaller at once
    assert len(first.surplus) == SLOTS


async def test_a_slot_whose_row_is_locked_is_taken_later_and_holds_up_no_heartbeat(
    world: World, engine: AsyncEngine
) -> None:
    relay = world.relay(1)
    async with engine.begin() as stopped_in_the_middle:
        await stopped_in_the_middle.exec_driver_sql("SELECT FROM crossfeed.slot WHERE slot = 3 FOR NO KEY UPDATE")
        await relay.renew()
        assert len(relay.held) == 2 * SLOTS - 1
    await relay.renew_if_due()
    assert len(relay.held) == 2 * SLOTS


async def test_a_dead_relay_is_missed_although_the_clock_of_the_server_was_put_back(world: World) -> None:
    dead, living = world.relay(1), world.relay(2)
    await dead.renew()
    await world.wait(-3600)
    await living.renew()
    assert len(living.held) == 2 * SLOTS


async def test_an_answer_that_comes_late_does_not_bring_back_what_was_let_go_meanwhile(world: World) -> None:
    relay = world.relay(1)
    await relay.renew()
    await asyncio.gather(relay.renew(), relay.release(relay.held[:5]), relay.renew_if_due())
    taken_again = {lease.slot: lease.token for lease in relay.held}
    async with world.engine.connect() as connection:
        found = await connection.exec_driver_sql(
            "SELECT slot, token FROM crossfeed.slot WHERE owner = %(me)s", {"me": relay.holder_id}
        )
        assert dict(map(tuple, found)) == taken_again
