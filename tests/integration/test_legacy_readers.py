"""Documents stay readable by the legacy application when Postgres is primary, to the letter where nothing changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from core.content import content_of
from core.domain.account import Account, SubscriptionType
from core.domain.game_session import Compass, GameSession, SessionStatus
from core.domain.pending_signup import PendingSignup
from core.domain.samples import sample_documents
from core.domain.user_profile import UserProfile
from core.envelope import Origin, Ours, author_of, is_internal
from core.phases import Phase
from core.postgres.unit_of_work import PostgresUnitOfWork
from core.projection import same_json
from tests.integration.legacy_reader import view
from tests.integration.mirror_steps import Steps
from tests.integration.relay_steps import letters, relaying, until
from tests.phase_steps import switch_phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.content import Document
    from core.cosmos.client import CosmosStore
    from core.entity import Entity
    from core.identity import Identity
    from core.mappings import Mappings
    from core.settings import Settings

Documents = dict["Identity", "Document"]


@pytest.fixture
async def legacy(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Documents:
    """Documents of the legacy application in both stores; Postgres has just become the primary."""
    await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_COSMOS_READ, who="test", why="test")
    found: Documents = {}
    for container, documents in sample_documents(70, seed=5).items():
        [mapping] = mappings.in_container(container)
        steps = Steps(engine, cosmos, mappings, mapping)
        for document in documents:
            found[mapping.identity(document)] = document
            await cosmos.container_named(container).create_item(dict(document))
        await steps.apply(await steps.watch())
    await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    return found


async def documents_of(engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings) -> Documents:
    found: Documents = {}
    for mapping in mappings:
        for document in await Steps(engine, cosmos, mappings, mapping).watch():
            if not is_internal(document):
                found[mapping.identity(document)] = document
    return found


CHANGES: dict[type[Entity], tuple[str, Any, str]] = {
    Account: ("display_name", "changed, here", "DisplayName"),
    UserProfile: ("bio", "changed, here", "Bio"),
    PendingSignup: ("failed_attempts", 3, "FailedAttempts"),
    GameSession: ("scene_count", 77, "SceneCount"),
}


def setting(field: str, value: Any) -> Callable[[Any], None]:
    return lambda entity: setattr(entity, field, value)


async def update(engine: AsyncEngine, mappings: Mappings, identity: Identity, change: Callable[[Any], None]) -> None:
    async with PostgresUnitOfWork(engine, mappings) as work:
        repository = work[mappings.named(identity.entity).model]
        entity = await repository.get_by_id(identity.id, partition_key=identity.parts)
        assert entity is not None
        change(entity)
        await repository.update(entity)
        await work.commit()


async def relayed(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, expected: set[Identity]
) -> Documents:
    """Relay until all of these were written by it."""
    found: Documents = {}

    async def arrived() -> bool:
        found.update(await documents_of(engine, cosmos, mappings))
        authors = {identity: author_of(found[identity]) for identity in expected}
        return all(isinstance(author, Ours) and author.origin is Origin.POSTGRES for author in authors.values())

    async with relaying(settings, mappings, engine, cosmos):
        await until(arrived)
    return found


async def test_an_update_of_one_field_leaves_every_other_as_the_legacy_application_spelled_it(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, legacy: Documents
) -> None:
    for identity in legacy:
        field, value, _ = CHANGES[mappings.named(identity.entity).model]
        for _ in range(2):  # the second one finds what the first one wrote
            await update(engine, mappings, identity, setting(field, value))
    found = await relayed(settings, engine, cosmos, mappings, set(legacy))
    assert found.keys() == legacy.keys()
    for identity, document in legacy.items():
        mapping = mappings.named(identity.entity)
        _, value, alias = CHANGES[mapping.model]
        expected = document | {alias: value}
        assert same_json(content_of(found[identity]), expected)
        assert view(mapping.container, found[identity]) == view(mapping.container, expected)
    assert await letters(engine) == []


async def test_what_changes_inside_a_property_leaves_the_rest_of_it_as_it_was(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings, legacy: Documents
) -> None:
    by_id = {identity.id: identity for identity in legacy}
    account, session = by_id["acc-lifetime"], by_id["ses-orphan"]

    def activate(entity: Account) -> None:
        entity.subscription.is_active = False

    def play(entity: GameSession) -> None:
        entity.status = SessionStatus.COMPLETED
        entity.compass_values["mut"] = Compass(current_value=1)

    await update(engine, mappings, account, activate)
    await update(engine, mappings, session, play)
    found = await relayed(settings, engine, cosmos, mappings, {account, session})
    before, after = legacy[account]["Subscription"], found[account]["Subscription"]
    assert same_json(after, before | {"IsActive": False})  # its type is a number still, its scenarios one text
    seen = view("GameSessions", found[session])
    assert seen["Status"] == "Completed"
    assert seen["CompassValues"].keys() == {"courage", "mut"}
    unchanged = {"PlayerNames", "StartTime", "PausedAt", "Discriminator", "IsPaused"}
    assert {name: found[session][name] for name in unchanged} == {name: legacy[session][name] for name in unchanged}
    for identity in (account, session):
        view(mappings.named(identity.entity).container, found[identity])


async def test_what_is_new_in_postgres_is_readable_there(
    settings: Settings, engine: AsyncEngine, cosmos: CosmosStore, mappings: Mappings
) -> None:
    await switch_phase(engine, cosmos, mappings, Phase.DUAL_WRITE_POSTGRES_READ, who="test", why="test")
    new: list[Entity] = [
        Account(id="a", email="a@x", user_profile_ids=["p, 1"]),
        UserProfile(id="p", name="Zoë", account_id="a"),
        PendingSignup(id="s", email="a@x", code="012345"),
        GameSession(id="g", account_id="a", status=SessionStatus.PAUSED, compass_values={"mut": Compass()}),
    ]
    new[0].subscription.type = SubscriptionType.ANNUAL  # type: ignore[attr-defined]
    async with PostgresUnitOfWork(engine, mappings) as work:
        for entity in new:
            await work[type(entity)].add(entity)
        await work.commit()
    expected = {mappings.identity_of(entity) for entity in new}
    found = await relayed(settings, engine, cosmos, mappings, set())
    while found.keys() != expected:
        found = await relayed(settings, engine, cosmos, mappings, set())
    views = {identity.entity: view(mappings.named(identity.entity).container, one) for identity, one in found.items()}
    assert views["Account"]["Subscription"]["Type"] == "Annual"
    assert views["Account"]["UserProfileIds"] == ["p, 1"]
    assert views["UserProfile"]["Name"] == "Zoë"
    assert views["PendingSignup"]["Code"] == "012345"
    assert views["GameSession"]["Status"] == "Paused"
