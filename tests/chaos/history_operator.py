"""The operator of a history: walks from phase to phase by the command line, and cleans up after what went wrong."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import TYPE_CHECKING, assert_never

from core.phases import Phase, PhaseState
from core.postgres.phases import read_phase
from core.postgres.switch_record import SwitchStep, pending_switch
from tests.chaos.history_plan import Cure, Mishap, Moment

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.phases import PhaseRow
    from core.postgres.switch_record import Switch
    from tests.chaos.history_fleet import Fleet, Running
    from tests.chaos.history_plan import Leg, Try
    from tests.chaos.history_troubles import Troubles

LEG_WITHIN_S = 180.0
_COMMAND_WITHIN_S = 100.0


class StuckError(Exception):
    """A step was not made in time though nothing went wrong any more; the message ends with what the command said."""


class Operator:
    """Makes steps.

    Args:
        fleet: whose processes it starts.
        engine: looks at the recorded phase.
        options: of every step, such as `--timeout`.
        troubles: of everybody else.

    """

    def __init__(self, fleet: Fleet, engine: AsyncEngine, options: tuple[str, ...], troubles: Troubles) -> None:
        self._fleet = fleet
        self._engine = engine
        self._options = options
        self._troubles = troubles
        self.made: list[str] = []
        """What was done, for the one who reads about a failure."""

    async def walk(self, leg: Leg) -> None:
        """Make a step, in spite of what goes wrong.

        Raises:
            StuckError: it could not be made.

        """
        for each in leg.tries:
            if (await self._state())[0].phase is leg.to:
                break
            await self._try(leg.to, each)
        holding = asyncio.ensure_future(self._hold_back(leg))
        try:
            await self._arrive(leg.to)
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
            self._troubles.may_come.set()
        await asyncio.sleep(leg.pause_s)

    async def _hold_back(self, leg: Leg) -> None:
        """Keep requests back until writers of Cosmos DB are drained: they arrive when the primary has moved, or not."""
        if leg.held_s and leg.to is Phase.DUAL_WRITE_POSTGRES_READ and (await self._state())[0].phase < leg.to:
            async with self._troubles.holding(leg.held_s, leg.meets):
                await self._comes(Moment.DRAINING)

    async def _comes(self, moment: Moment, making: Running | None = None) -> None:
        """Wait until a switch has come so far, or its process has ended."""
        while moment is not Moment.BEGUN and (making is None or making.is_alive):
            _, pending = await self._state()
            if pending is not None and moment in {Moment.DRAINING, pending.step.value}:
                return
            await asyncio.sleep(0.005)

    async def _arrive(self, to: Phase) -> None:
        """Do what is needed until the phase is there and steady, as an operator does who wants it so."""
        until, said = time.monotonic() + LEG_WITHIN_S, ""
        while True:
            row, pending = await self._state()
            if row.phase is to and pending is None:
                return
            if time.monotonic() > until:
                raise StuckError(f"phase {to.label} was not reached from {row}, {pending}: {said}\n{self.made}")
            if pending is not None:
                said = await self._run("resume")
            else:
                said = await self._run(*self._step(row.phase, to))
            if (await self._state())[0].phase is not to:
                self._troubles.may_come.clear()

    async def _try(self, to: Phase, attempt: Try) -> None:
        row, pending = await self._state()
        if pending is not None:
            await self._cure(attempt.cure)
            row, _ = await self._state()
            if row.phase is to:
                return
        step = self._step(row.phase, to)
        match attempt.mishap:
            case Mishap.TIMED_OUT:
                await self._run(*step, "--timeout", f"{max(0.1, attempt.after_s):.3f}")
            case Mishap.OUT_OF_BUDGET:
                await self._run(*step, "--pause-budget", f"{max(0.1, attempt.after_s / 3):.3f}")
            case Mishap.KILLED | Mishap.INTERRUPTED | Mishap.TERMINATED:
                number = getattr(signal, f"SIG{_SIGNALS[attempt.mishap]}")
                making = await self._comes_to(attempt, *step)
                making.signal(number)
                await self._end(making, f"got {number.name} {attempt.after_s:.2f} s after {attempt.moment}")
            case Mishap.CANCELLED:
                making = await self._comes_to(attempt, *step)
                await self._run("cancel")
                await self._end(making, "another has cancelled it")
            case Mishap.TWICE:
                one, other = await self._begun(*step), await self._begun(*step)
                await self._end(one, "one of two")
                await self._end(other, "the other of two")
            case Mishap.ASLEEP:
                making = await self._comes_to(attempt, *step)
                sleeping = asyncio.ensure_future(making.sleep(attempt.asleep_s))
                try:
                    await self._cure(attempt.cure)
                finally:
                    await sleeping
                await self._end(
                    making, f"slept {attempt.asleep_s:.2f} s, {attempt.after_s:.2f} s after {attempt.moment}"
                )
            case _:
                assert_never(attempt.mishap)
        await self._check_at_rest(attempt)

    async def _check_at_rest(self, attempt: Try) -> None:
        """Whoever was not killed leaves nothing half-way but watermarks; who was, is cured, and status said so."""
        _, pending = await self._state()
        if pending is None:
            return
        status = await self._run("status")
        if str(pending.id) not in status:
            raise StuckError(f"status says nothing of {pending}: {status}")
        is_left = attempt.mishap is Mishap.KILLED or pending.step is SwitchStep.OPENED
        if not is_left:
            raise StuckError(f"a switch was left though nobody was killed: {attempt}, {pending}\n{self.made}")
        await self._cure(attempt.cure)

    async def _cure(self, cure: Cure) -> None:
        _, pending = await self._state()
        if pending is not None:
            await self._run(Cure.RESUME if pending.step is SwitchStep.OPENED else cure)

    def _step(self, now: Phase, to: Phase) -> tuple[str, ...]:
        words = ["--writers-restarted"] if (now, to) == (Phase.COSMOS_ONLY, Phase.DUAL_WRITE_COSMOS_READ) else []
        return ("advance" if to > now else "back", *self._options, *words)

    async def _comes_to(self, attempt: Try, *arguments: str) -> Running:
        making = await self._begun(*arguments)
        await self._comes(attempt.moment, making)
        await asyncio.sleep(attempt.after_s)
        return making

    async def _begun(self, *arguments: str) -> Running:
        return await self._fleet.start("operator", "phase", *arguments, "--json")

    async def _run(self, *arguments: str) -> str:
        return await self._end(await self._begun(*arguments), "")

    async def _end(self, making: Running, remark: str) -> str:
        code, said = await making.ended(_COMMAND_WITHIN_S)
        row, pending = await self._state()
        left = "" if pending is None else f", {pending.step} is left"
        command, took_s = " ".join(making.arguments), time.monotonic() - making.begun
        self.made.append(f"{command} {remark}: {code} in {took_s:.1f} s, {_short(said)} -> {row.phase.label}{left}")
        return said

    async def _state(self) -> tuple[PhaseRow, Switch | None]:
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ")  # one moment
            row, pending = await read_phase(connection), await pending_switch(connection)
        if pending is None and row.state is PhaseState.DRAINING:
            raise StuckError(f"{row} is draining without a switch")
        return row, pending


_SIGNALS = {Mishap.KILLED: "KILL", Mishap.INTERRUPTED: "INT", Mishap.TERMINATED: "TERM"}


def _short(said: str) -> str:
    try:
        report = json.loads(said)
    except ValueError:
        return said[-300:]
    refused = [check for check in report.get("checks", []) if not check.get("ok", True)]
    return f"{report.get('outcome')} {refused}"[:600]
