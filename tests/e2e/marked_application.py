"""An application in a process of its own that writes marked data, and logs every refusal with its whole traceback.

Its argument is a JSON object of marks; it prints what it did, a word per line.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, cast

import structlog

from core.crossfeed import Crossfeed
from core.domain.account import Account
from core.domain.events import AccountRegistered
from core.domain.pending_signup import PendingSignup
from core.domain.user_profile import UserProfile
from core.errors import CrossfeedError
from core.settings import Settings
from core.telemetry import configure_logging

if TYPE_CHECKING:
    from core.entity import Entity
    from core.repository import UnitOfWork

log = structlog.get_logger()


async def main() -> None:
    marks = json.loads(sys.argv[1])
    content, key, again = marks["content"], marks["key"], marks["again"]
    settings = Settings.load()
    configure_logging(settings)
    account = Account(id=f"acc-{again}", email=f"{content}@x.test", display_name=content, auth0_user_id=content)
    signup = PendingSignup.model_validate({"id": f"s-{again}", "email": f"{key}@x.test", "Code": content})
    profile = UserProfile(id=f"p-{again}", name=content)
    refused: list[Entity] = [
        account,  # it is there by then
        Account(id=f"a/{content}"),
        Account(id=f"b-{again}", display_name=f"\x00{content}"),
        Account(id=f"c-{again}", display_name=content * 100_000),
        Account.model_construct(id=f"d-{again}", email=cast("str", [content])),
        Account.model_construct(id=f"e-{again}", settings=content),
        Account.model_construct(id=f"f-{again}", created_at=content),
    ]
    async with Crossfeed.open(settings, settings.load_mappings()) as db:

        async def add(work: UnitOfWork, entity: Entity) -> None:
            await work[type(entity)].add(entity)
            if isinstance(entity, Account):
                work.record(AccountRegistered(email=content, display_name=content), of=entity)
            await work.commit()

        for entity in (account, signup, profile, *refused):
            try:
                async with db.unit_of_work() as work:
                    await add(work, entity)
                print("written")
            except (CrossfeedError, ValueError):
                log.exception("application.refused")
                print("refused")
        try:
            async with db.unit_of_work() as work:
                spoiled = AccountRegistered.model_construct(email=cast("str", [content]), display_name=content)
                work.record(spoiled, of=account)
                await work.commit()
        except CrossfeedError:
            log.exception("application.event_refused")
            print("refused")
        async with db.unit_of_work() as one, db.unit_of_work() as other:
            mine, theirs = [await work[Account].get_by_id(account.id) for work in (one, other)]
            assert mine is not None
            assert theirs is not None
            await one[Account].update(mine.model_copy(update={"role": content}))
            await one.commit()
            try:
                await other[Account].update(theirs.model_copy(update={"role": content}))
                await other.commit()
            except CrossfeedError:
                log.exception("application.conflict")
                print("conflict")


if __name__ == "__main__":
    asyncio.run(main())
