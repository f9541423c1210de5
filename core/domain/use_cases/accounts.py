"""What happens to accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.domain.account import Account, Accounts
from core.domain.events import AccountRegistered
from core.domain.use_cases.common import found, updated
from core.errors import AlreadyExistsError

if TYPE_CHECKING:
    from core.domain.account import Subscription
    from core.instant import Instant
    from core.repository import UnitOfWork


async def register_account(  # noqa: PLR0913 - what an account begins with
    work: UnitOfWork, *, id_: str, email: str, auth0_user_id: str, display_name: str, now: Instant
) -> Account:
    """Add an account.

    Raises:
        AlreadyExistsError: the id or, as far as can be seen now, the e-mail is taken.

    """
    if await work.of(Accounts).exists_by_email(email):
        msg = "an account with this e-mail exists"
        raise AlreadyExistsError(msg)
    account = Account(
        id=id_,
        email=email,
        auth0_user_id=auth0_user_id,
        display_name=display_name,
        created_at=now,
        last_login_at=now,
    )
    await work[Account].add(account)
    work.record(AccountRegistered(email=email, display_name=display_name), of=account)
    return account


async def rename_account(work: UnitOfWork, id_: str, *, display_name: str) -> Account:
    """Change an account's name."""
    account = await found(work, Account, id_, id_)
    account.display_name = display_name
    return await updated(work, account)


async def change_account_email(work: UnitOfWork, id_: str, *, email: str) -> Account:
    """Change an account's e-mail, which is no part of its key."""
    account = await found(work, Account, id_, id_)
    account.email = email
    return await updated(work, account)


async def log_in(work: UnitOfWork, id_: str, *, now: Instant) -> Account:
    """Note that an account's owner has logged in."""
    account = await found(work, Account, id_, id_)
    account.last_login_at = now
    return await updated(work, account)


async def subscribe(work: UnitOfWork, id_: str, *, subscription: Subscription) -> Account:
    """Replace an account's subscription; scenarios bought before stay bought."""
    account = await found(work, Account, id_, id_)
    bought = (*account.subscription.purchased_scenarios, *subscription.purchased_scenarios)
    subscription.purchased_scenarios = list(dict.fromkeys(bought))
    account.subscription = subscription
    return await updated(work, account)


async def complete_scenario(work: UnitOfWork, id_: str, *, scenario_id: str) -> Account:
    """Note that a scenario was played to its end, once."""
    account = await found(work, Account, id_, id_)
    if scenario_id not in account.completed_scenario_ids:
        account.completed_scenario_ids.append(scenario_id)
        await work[Account].update(account)
    return account


async def delete_account(work: UnitOfWork, id_: str) -> None:
    """Delete an account; its profiles and sessions are aggregates of their own and stay."""
    await work[Account].delete(await found(work, Account, id_, id_))
