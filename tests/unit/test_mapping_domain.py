"""The example's mappings: every document that was ever stored comes back from its row to the letter."""

from __future__ import annotations

import ast
import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import domain
from core.content import ENVELOPE
from core.domain.account import Account, SubscriptionType
from core.domain.game_session import Compass, SessionStatus
from core.domain.mappings import ACCOUNTS, GAME_SESSIONS, MAPPINGS, PENDING_SIGNUPS, USER_PROFILES
from core.domain.shapes import StoredEntity, StoredPart, timespan
from core.errors import DocumentRefusedError
from core.projection import same_json
from tests.unit.strategies import as_cosmos, as_postgres, date_texts, names, numbers, texts, through_a_row, values

if TYPE_CHECKING:
    from core.content import Document
    from core.mapping import EntityMapping

flags = st.booleans()
dates = date_texts()
joined = st.one_of(st.lists(texts, max_size=3), st.lists(texts, max_size=3).map(",".join))
opt_texts = st.none() | texts
opt_dates = st.none() | dates


KNOWN = {
    field.alias or name
    for model in (*StoredEntity.__subclasses__(), *StoredPart.__subclasses__())
    for name, field in model.model_fields.items()
}


def _object(properties: dict[str, st.SearchStrategy[Any]], **required: st.SearchStrategy[Any]) -> Any:
    extra = st.dictionaries(names.filter(lambda name: name not in KNOWN), values, max_size=2)
    known = st.fixed_dictionaries(required, optional=properties)
    return st.builds(lambda one, other: {**one, **other}, extra, known)


subscriptions = _object(
    {
        "Type": st.integers(0, 4) | st.sampled_from([choice.value for choice in SubscriptionType]),
        "ProductId": texts,
        "ValidUntil": opt_dates,
        "IsActive": flags,
        "PurchaseToken": opt_texts,
        "PurchasedScenarios": joined,
        "EndDate": opt_dates,
    }
)
accounts = _object(
    {
        "Email": texts,
        "DisplayName": texts,
        "Role": texts,
        "UserProfileIds": joined,
        "Subscription": subscriptions,
        "Settings": _object({"CacheCredentials": flags, "Theme": opt_texts}),
        "CreatedAt": dates,
        "LastLoginAt": dates,
    },
    id=st.just("a"),
)
badges = _object({"Id": texts, "TriggerValue": numbers, "Threshold": numbers | st.just("1.5"), "EarnedAt": dates})
profiles = _object(
    {
        "Name": texts,
        "PreferredFantasyThemes": joined,
        "DateOfBirth": opt_dates,
        "IsGuest": flags | st.sampled_from(["true", "no", 0, 1]),
        "EarnedBadges": st.lists(badges, max_size=2),
        "AccountId": opt_texts,
        "UpdatedAt": dates,
    },
    id=st.just("a"),
)
signups = _object(
    {"DisplayName": texts, "Code": texts, "ExpiresAt": dates, "FailedAttempts": st.integers(0, 9) | st.just(3.0)},
    id=st.just("a"),
    email=texts,
)
compasses = st.dictionaries(
    texts, _object({"CurrentValue": numbers, "History": st.lists(values, max_size=2), "LastUpdated": dates}), max_size=2
)
sessions = _object(
    {
        "ScenarioId": texts,
        "PlayerNames": joined,
        "Status": st.integers(0, 4) | st.sampled_from([status.value for status in SessionStatus]),
        "ChoiceHistory": st.lists(_object({"SceneId": texts, "CompassDelta": st.none() | numbers, "ChosenAt": dates})),
        "CompassValues": compasses | compasses.map(json.dumps) | st.just(""),
        "Achievements": st.lists(values, max_size=2) | st.just("first, second"),
        "StartTime": dates,
        "EndTime": opt_dates,
        "SceneCount": st.integers(0, 2**53),
    },
    id=st.just("a"),
    accountId=texts,
)
CASES = [
    pytest.param(mapping, documents, id=mapping.name)
    for mapping, documents in (
        (ACCOUNTS, accounts),
        (USER_PROFILES, profiles),
        (PENDING_SIGNUPS, signups),
        (GAME_SESSIONS, sessions),
    )
]


@pytest.mark.parametrize(("mapping", "documents"), CASES)
@settings(max_examples=30)
@given(data=st.data())
def test_every_document_comes_back_from_its_row(
    mapping: EntityMapping[Any], documents: st.SearchStrategy[Document], data: st.DataObject
) -> None:
    document = data.draw(documents)
    for returned in through_a_row(mapping, document):
        assert same_json(returned, document)
    assert same_json(through_a_row(mapping, as_cosmos(document))[0], document)
    dressed = {**document, "_etag": "x", "_ts": 1, ENVELOPE: {"epoch": 1}}
    assert same_json(through_a_row(mapping, dressed)[0], document)


@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: mapping.name)
@settings(max_examples=30)
@given(data=st.data())
def test_whatever_a_document_holds_it_comes_back_or_is_refused(
    mapping: EntityMapping[Any], data: st.DataObject
) -> None:
    aliases = st.sampled_from([field.alias for field in mapping.model.model_fields.values()])
    document = {"id": "a", "email": "a", "accountId": "a", **data.draw(st.dictionaries(aliases | names, values))}
    try:
        row = mapping.row(document)
    except DocumentRefusedError:
        return
    if document["id"]:
        assert same_json(mapping.document_of_row(as_postgres(mapping.table, row)), document)


@pytest.mark.parametrize(("mapping", "documents"), CASES)
@settings(max_examples=30)
@given(data=st.data())
def test_an_entity_is_written_in_the_new_shape_and_read_back_equal(
    mapping: EntityMapping[Any], documents: st.SearchStrategy[Document], data: st.DataObject
) -> None:
    entity = mapping.entity(data.draw(documents))
    document = mapping.document(entity)
    again = mapping.entity(document)
    assert again == entity
    assert same_json(mapping.document(again), document)
    row = mapping.row(document)
    assert same_json(mapping.document_of_row(as_postgres(mapping.table, row)), document)
    for alias in (field.alias for field in mapping.model.model_fields.values()):
        assert alias in document


# -- shapes


def test_old_spellings_are_read_and_new_ones_written() -> None:
    session = GAME_SESSIONS.entity(
        {
            "id": "s",
            "accountId": "a",
            "Status": 3,
            "PlayerNames": " Ann ,Bob,, Zoë",
            "CompassValues": '{"wisdom": {"CurrentValue": 1.5}}',
            "Achievements": "",
        }
    )
    assert session.status is SessionStatus.COMPLETED
    assert session.player_names == ["Ann", "Bob", "Zoë"]
    assert session.compass_values == {"wisdom": Compass(current_value=1.5)}
    document = GAME_SESSIONS.document(session)
    assert document["Status"] == "Completed"
    assert document["PlayerNames"] == ["Ann", "Bob", "Zoë"]
    assert document["CompassValues"]["wisdom"]["CurrentValue"] == 1.5
    assert document["Achievements"] == []


def test_a_name_with_a_comma_in_a_real_list_stays_whole() -> None:
    session = GAME_SESSIONS.entity({"id": "s", "accountId": "a", "PlayerNames": ["Lee, Ann", "Bob"]})
    assert session.player_names == ["Lee, Ann", "Bob"]
    account = Account(id="a", user_profile_ids=["a,b"])
    assert account.user_profile_ids == ["a,b"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Status", 5),
        ("Status", -1),
        ("Status", True),
        ("Status", "Running"),
        ("Status", "1"),
        ("Status", None),
        ("PlayerNames", None),
        ("PlayerNames", [1]),
        ("CompassValues", "{"),
        ("CompassValues", "[]"),
        ("CompassValues", '{"a": {"CurrentValue": 1e999}}'),
        ("CompassValues", '{"a": {"History": ["\\u0000"]}}'),
        ("CompassValues", '{"a": {"History": [9007199254740993]}}'),
        ("StartTime", "yesterday"),
        ("SceneCount", 1.5),
    ],
)
def test_what_no_version_of_the_application_wrote_is_refused(name: str, value: Any) -> None:
    with pytest.raises(DocumentRefusedError):
        GAME_SESSIONS.row({"id": "s", "accountId": "a", name: value})


def test_aliases_are_the_stored_names() -> None:
    assert [field.alias for field in GAME_SESSIONS.model.model_fields.values()][:4] == [
        "id",
        "ScenarioId",
        "accountId",
        "ProfileId",
    ]
    assert {field.alias for field in Account.model_fields.values()} >= {"Auth0UserId", "UserProfileIds", "LastLoginAt"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "00:00:00"), (3661, "01:01:01"), (93_784, "1.02:03:04"), (0.25, "00:00:00.2500000")],
)
def test_a_duration_is_spelled_as_dotnet_does(seconds: float, text: str) -> None:
    assert timespan(timedelta(seconds=seconds)) == text
    with pytest.raises(ValueError, match="end before"):
        timespan(timedelta(seconds=-1))


def test_the_domain_knows_neither_store() -> None:
    for path in Path(domain.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names_of = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in [*names_of, getattr(node, "module", None) or ""]:
                assert not module.startswith(("azure", "psycopg", "core.postgres", "core.cosmos")), (path, module)
