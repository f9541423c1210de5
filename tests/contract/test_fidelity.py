"""What is written is what is read: ids, texts, dates, numbers, old spellings and properties that no model knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from core.content import content_of
from core.domain import awkward
from core.domain.account import Account, Accounts, Subscription
from core.domain.game_session import Choice, Compass, GameSession, SessionStatus
from core.domain.mappings import ACCOUNTS, GAME_SESSIONS, MAPPINGS, USER_PROFILES
from core.domain.user_profile import UserProfile, UserProfiles
from core.instant import Instant
from core.projection import same_json
from tests.contract.stores import save

if TYPE_CHECKING:
    from core.content import Document
    from core.mapping import EntityMapping
    from tests.contract.stores import Db

IDS = [
    "acc-1",
    awkward.DASHED,
    awkward.PLAIN,
    awkward.UPPER,
    "{" + awkward.DASHED + "}",
    "0",
    "00",
    "-1",
    "1e3",
    "null",
    " padded",
    "a b",
    "a+b",
    "a%2Fb",
    "100%",
    "a&b=c;d",
    "it's",
    'say "hi"',
    "a,b",
    "$1",
    "%s",
    ":id",
    "[x]",
    "ünï竜🐉",
    "e\u0301",
    "é",
    "x" * 1023,
]


async def test_ids_are_never_reshaped_and_never_taken_for_each_other(db: Db) -> None:
    for id_ in IDS:
        await save(db, GameSession(id=id_, account_id=id_, scenario_id=f"of {id_}"))
    async with db.unit_of_work() as work:
        sessions = work[GameSession]
        for id_ in IDS:
            for found in (await sessions.get_by_id(id_, partition_key=id_), await sessions.get_by_id(id_)):
                assert found is not None, id_
                assert (found.id, found.account_id, found.scenario_id) == (id_, id_, f"of {id_}")
        assert sorted([session.id for session in await sessions.list()]) == sorted(IDS)
        for session in await sessions.list():
            session.current_scene_id = "seen"
            async with db.unit_of_work() as another:
                await another[GameSession].update(session)
                await another.commit()
    async with db.unit_of_work() as work:
        assert {session.current_scene_id for session in await work[GameSession].list()} == {"seen"}


async def test_names_of_every_kind_come_back_to_the_letter(db: Db) -> None:
    for number, name in enumerate(awkward.NAMES):
        await save(
            db, UserProfile(id=f"p{number:02d}", name=name, account_id=name, bio=name, preferred_fantasy_themes=[name])
        )
    async with db.unit_of_work() as work:
        profiles = await work[UserProfile].list()
        assert [profile.name for profile in profiles] == list(awkward.NAMES)
        assert [profile.bio for profile in profiles] == list(awkward.NAMES)
        assert [profile.preferred_fantasy_themes for profile in profiles] == [[name] for name in awkward.NAMES]
        for name in awkward.NAMES:
            found = await work.of(UserProfiles).by_account(name)
            assert [profile.name for profile in found] == [name]


async def test_an_aggregate_comes_back_whole(db: Db) -> None:
    session = GameSession(
        id="s",
        account_id="a",
        player_names=["Lee, Ann", "Bob"],
        status=SessionStatus.PAUSED,
        choice_history=[
            Choice(scene_id="1", choice_text="go", compass_delta=0.5, chosen_at=Instant.parse("2026-01-31"))
        ],
        compass_values={"courage, größe": Compass(current_value=-1.25, history=[{"delta": -1}, None, "x", True, 1.5])},
        achievements=[{"Id": "a1", "Earned": True}],
        start_time=Instant.parse("2026-01-31T08:00:00.1234567"),
        paused_at=Instant.parse("9999-12-31T23:59:59.9999999"),
        scene_count=2**53,
    )
    await save(db, session)
    async with db.unit_of_work() as work:
        found = await work[GameSession].get_by_id("s", partition_key="a")
        assert found == session
        assert found is not None
        assert same_json(GAME_SESSIONS.document(found), GAME_SESSIONS.document(session))


DATES = [
    "2026-01-31T08:00:00.1234567",
    "2026-01-31T08:00:00.1234567Z",
    "2026-01-31T08:00:00.0000001+02:00",
    "2026-01-31T08:00:00Z",
    "2026-01-31T08:00:00",
    "2026-01-31",
    "2026-01-31T08:00:00.9999999Z",
    "9999-12-31T23:59:59.9999999",
    "9999-12-31T23:59:59.9999999Z",
    "0001-01-01T00:00:00",
    "1969-12-31T23:59:59.5",
]


@pytest.mark.parametrize("text", DATES)
async def test_a_date_keeps_its_text_through_reads_and_updates(db: Db, text: str) -> None:
    moment = Instant.parse(text)
    await save(db, Account(id="a", created_at=moment, subscription=Subscription(end_date=moment)))
    await db.seed(ACCOUNTS, {"id": "b", "CreatedAt": text, "Subscription": {"EndDate": text}})
    for id_ in ("a", "b"):
        for _ in range(2):
            async with db.unit_of_work() as work:
                account = await work[Account].get_by_id(id_)
                assert account is not None
                assert account.created_at == moment
                assert account.created_at.text == text
                assert account.subscription.end_date is not None
                assert account.subscription.end_date.text == text
                account.display_name += "x"
                await work[Account].update(account)
                await work.commit()


NUMBERS = [0, 1, -1, 1.5, -0.25, 0.1, 1e-7, 1e21, 2**53, -(2**53), 2.0**68, 5e-324, 1.7976931348623157e308, 1e16]


async def test_a_number_that_a_double_holds_keeps_its_value(db: Db) -> None:
    account = Account.model_validate({"id": "a", "Numbers": NUMBERS})
    await save(db, account)
    async with db.unit_of_work() as work:
        found = await work[Account].get_by_id("a")
        assert found is not None
        assert found.model_extra is not None
        assert same_json(found.model_extra["Numbers"], NUMBERS)


EXTRAS: dict[str, Any] = {
    "Discriminator": "Account",
    "$type": "Mystira.Account, Mystira",
    "email": "lower case, another property",
    "display_name": "a field's name, another property",
    "Marketing": {"optIn": True, "scores": [1, 2.5, None, "ä"], "nested": {"_ts": 1, "crossfeed": 2}},
    "": "an empty name",
    "näme with 'quotes\" and $.dots[0]": [],
    "Null": None,
    "True": True,
    "One": 1,
}


async def test_properties_that_no_model_knows_survive_updates(db: Db) -> None:
    await db.seed(ACCOUNTS, {"id": "a", "Email": "a@x", "Subscription": {"Tier": "Basic", "Store": {"n": 1}}, **EXTRAS})
    for name in ("one", "two"):
        async with db.unit_of_work() as work:
            account = await work[Account].get_by_id("a")
            assert account is not None
            account.display_name = name
            account.subscription.is_active = True
            await work[Account].update(account)
            await work.commit()
    async with db.unit_of_work() as work:
        account = await work[Account].get_by_id("a")
        assert account is not None
        document = ACCOUNTS.document(account)
        assert same_json({key: document[key] for key in EXTRAS}, EXTRAS)
        assert (document["DisplayName"], document["Email"]) == ("two", "a@x")
        assert same_json(document["Subscription"]["Store"], {"n": 1})
        assert account.model_extra is not None
        assert account.model_extra.keys() == EXTRAS.keys()  # and nothing of the store's own


async def test_a_property_may_be_added_and_removed(db: Db) -> None:
    account = Account.model_validate({"id": "a", "Old": 1})
    await save(db, account)
    assert account.model_extra is not None
    del account.model_extra["Old"]
    account.model_extra["New"] = [1]
    async with db.unit_of_work() as work:
        await work[Account].update(account)
        await work.commit()
    async with db.unit_of_work() as work:
        found = await work[Account].get_by_id("a")
        assert found is not None
        assert found.model_extra == {"New": [1]}


async def test_names_with_commas_stay_whole_where_old_documents_joined_lists_with_them(db: Db) -> None:
    await db.seed(USER_PROFILES, {"id": "old", "PreferredFantasyThemes": "dragons, space"})
    await db.seed(USER_PROFILES, {"id": "new", "PreferredFantasyThemes": ["dragons, big ones", "space"]})
    for _ in range(2):
        async with db.unit_of_work() as work:
            old, new = await work[UserProfile].get_by_id("old"), await work[UserProfile].get_by_id("new")
            assert old is not None
            assert new is not None
            assert old.preferred_fantasy_themes == ["dragons", "space"]
            assert new.preferred_fantasy_themes == ["dragons, big ones", "space"]
        for profile in (old, new):
            async with db.unit_of_work() as work:
                await work[UserProfile].update(profile)
                await work.commit()


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: mapping.name)
async def test_awkward_documents_are_read_as_their_model_reads_them_and_written_in_the_new_shape(
    db: Db, mapping: EntityMapping[Any]
) -> None:
    documents: list[Document] = awkward.documents()[mapping.container]
    await db.seed(mapping, *documents)
    by_identity = {mapping.identity(document): mapping.entity(content_of(document)) for document in documents}
    for _ in range(2):
        async with db.unit_of_work() as work:
            found = await work[mapping.model].list()
        assert {mapping.identity(mapping.document(entity)) for entity in found} == by_identity.keys()
        for entity in found:
            expected = by_identity[mapping.identity(mapping.document(entity))]
            assert same_json(mapping.document(entity), mapping.document(expected))
            async with db.unit_of_work() as work:
                await work[mapping.model].update(entity)
                await work.commit()


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # what aiohttp thinks of the SDK's way
async def test_a_document_just_below_two_megabytes_is_stored(db: Db) -> None:
    frame = len(str(ACCOUNTS.document(Account.model_validate({"id": "a", "Big": ""}))).encode())
    account = Account.model_validate({"id": "a", "Big": "x" * (2 * 1024 * 1024 - 1024 - frame)})
    await save(db, account)
    async with db.unit_of_work() as work:
        found = await work.of(Accounts).get_by_id("a", partition_key="a")
        assert found == account
