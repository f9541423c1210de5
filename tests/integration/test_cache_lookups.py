"""Look-ups by another key than the identity: an entry names who has the value, and that one must have it still."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis

from core.cache.changes import Changed
from core.domain.account import Account, Accounts
from tests.integration.cache_steps import account, identity_of

if TYPE_CHECKING:
    from core.local.valkey import EmbeddedValkey
    from tests.integration.cache_steps import Client

X, Y = "x@example.org", "y@example.org"


async def test_a_look_up_is_served_to_all_whatever_its_case(clients: tuple[Client, Client]) -> None:
    one, other = clients
    await one.add(account("a", "Ann", email="X@Example.org"))
    await one.by_email(X)
    await one.get("a")
    found = await other.by_email("x@EXAMPLE.org")
    assert found is not None
    assert found.display_name == "Ann"
    assert other.loads == 0


async def test_a_look_up_that_regards_case_is_another_one(clients: tuple[Client, Client]) -> None:
    one, other = clients
    await one.add(account("a", auth="auth0|ABC"), account("b", auth="auth0|abc"))
    for client in (one, other):
        async with client.work() as work:
            for id_, value in (("a", "auth0|ABC"), ("b", "auth0|abc")):
                found = await work.of(Accounts).get_by_auth0_user_id(value)
                assert found is not None
                assert found.id == id_
        await client.landed()


async def test_old_and_new_value_are_both_forgotten(clients: tuple[Client, Client], valkey: EmbeddedValkey) -> None:
    one, other = clients
    await one.add(account("a", email=X))
    for client in clients:
        assert await client.by_email(X) is not None
        assert await client.by_email(Y) is None
        assert await client.by_email(X) is not None
    async with other.work() as work:
        found = await work.of(Accounts).get_by_email(X)
        assert found is not None
        found.email = Y
        await work[Account].update(found)
        await work.commit()
    with redis.Redis.from_url(valkey.url) as server:
        assert not server.hexists(one.email_key(X), "body")
        assert not server.hexists(one.email_key(Y), "body")
    for client in clients:
        assert await client.by_email(X) is None
        assert await client.by_email(Y) is not None


@pytest.mark.parametrize("content", [None, {"Email": Y}])
async def test_an_old_value_names_nobody_once_the_entity_is_told(
    clients: tuple[Client, Client], content: dict[str, str] | None
) -> None:
    one, other = clients
    await one.add(account("a", email=X))
    await other.by_email(X)
    await other.by_email(X)
    async with one.losing_what_it_tells():
        changed = await one.change("a", email=Y)
    assert changed.email == Y
    await one.cache.changed([Changed(identity_of("a"), None, content=content)])
    assert await other.by_email(X) is None


async def test_of_several_the_first_is_served_as_soon_as_it_has_the_value(clients: tuple[Client, Client]) -> None:
    one, other = clients
    await one.add(account("b", email=X))
    await other.by_email(X)
    await other.by_email(X)
    await one.add(account("a", email=X))
    found = await other.by_email(X)
    assert found is not None
    assert found.id == "a"


async def test_a_value_that_databases_may_fold_otherwise_is_looked_up_in_the_store(
    clients: tuple[Client, Client],
) -> None:
    one, _ = clients
    await one.add(account("a", email="É@example.org"))
    for _ in range(2):
        assert await one.by_email("É@example.org") is not None
    assert (one.hits, one.loads) == (0, 2)


async def test_a_negative_look_up_ends_with_a_value_that_a_wide_locale_folds_to_it(
    clients: tuple[Client, Client],
) -> None:
    one, other = clients
    assert await one.by_email("k@example.org") is None
    await one.add(account("a", email="\N{KELVIN SIGN}@example.org"))
    before = other.loads
    await other.by_email("k@example.org")
    assert other.loads == before + 1
