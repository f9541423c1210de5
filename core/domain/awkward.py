"""One small document for each awkward habit of real ones, so that no sample is too small to hold them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.content import Document

END_OF_TIME = "9999-12-31T23:59:59.9999999"
"""The latest date of .NET: seven digits, no offset; rounded to six it would leave the range."""

NAMES = (
    "Lee, Ann",
    'Robert "Bobby" O\'Neill',
    "🐉 Drache 👨‍👩‍👧‍👦",
    "أميرة النجوم",
    "עֲדִינָה, בַּת־שֶׁבַע",
    "Zoë Ångström",
    "Zoe\u0308 A\u030angstro\u0308m",
    "'; DROP TABLE accounts; --",
    '\\u0041\\n {"not": "json"} %s $1 :x',
    "tab\tnew\nline\u2028separator",
    " spaces around ",
    "竜の騎士",
)
"""Names with commas, quotes, emoji, right-to-left text, both Unicode normal forms, and what looks like code."""

ACCOUNT = "acc-1"
PROFILE = "prof-1"
DASHED = "7f9c24e8-3b12-4fef-91e0-56a2d0b7c0de"
PLAIN = "7f9c24e83b124fef91e056a2d0b7c0de"
"""The same GUID without dashes: another id."""
UPPER = DASHED.upper()
"""The same GUID in capitals: yet another id."""


def documents() -> dict[str, list[Document]]:
    """Return the awkward documents by container, fresh ones at each call."""
    return {
        "GameSessions": _sessions(),
        "PendingSignups": _signups(),
        "UserProfiles": _profiles(),
        "Accounts": _accounts(),
    }


def _accounts() -> list[Document]:
    return [
        {"id": ACCOUNT},  # everything left out
        {"id": DASHED, "Email": "Ann.Lee@Example.com", "DisplayName": "Lee, Ann", "Discriminator": "Account"},
        {"id": PLAIN, "Email": "ann.lee@example.com", "DisplayName": "Lee, Ann", "$type": "Account"},
        {"id": UPPER, "Email": "ANN.LEE@EXAMPLE.COM", "Auth0UserId": "auth0|6f0e2b7a9c"},
        {
            "id": "acc-lifetime",
            "Email": "forever@example.com",
            "Subscription": {
                "Type": 3,
                "IsActive": True,
                "StartDate": "2024-02-29T12:00:00.1234567",
                "EndDate": END_OF_TIME,
                "PurchasedScenarios": "scenario-1,scenario-2",
                "Store": {"Name": "play", "Attempt": 1},
            },
        },
        {
            "id": "acc-text-enum",
            "Subscription": {"Type": "Annual", "EndDate": "2027-01-31T08:00:00Z"},
            "UserProfileIds": "prof-1, prof-2",
            "CompletedScenarioIds": "",
            "Settings": {"Theme": None, "PreferredLanguage": "ar"},
        },
        {
            "id": "acc-extra",
            "Discriminator": "Account",
            "$type": "Mystira.Domain.Account, Mystira.Domain",
            "email": "not the e-mail, an extra property",
            "Marketing": {"optIn": True, "scores": [1, 2.5, -0.0, 1e21], "none": None, "": "an empty name"},
            "CreatedAt": "0001-01-01T00:00:00",
            "LastLoginAt": "2026-01-31T10:00:00.0000001+02:00",
        },
    ]


def _profiles() -> list[Document]:
    named = [
        {"id": f"prof-name-{place}", "Name": name, "AccountId": ACCOUNT, "CreatedAt": "2025-06-01T00:00:00"}
        for place, name in enumerate(NAMES)
    ]
    return [
        *named,
        {"id": PROFILE, "Name": "Zoe", "AccountId": ACCOUNT, "PreferredFantasyThemes": "dragons,space"},
        {"id": PLAIN, "Name": "Zoe", "IsGuest": True, "PreferredFantasyThemes": ["dragons, big ones", "space"]},
        {"id": "prof-null", "Name": "", "DateOfBirth": None, "Pronouns": None, "Bio": None, "AccountId": None},
        {
            "id": "prof-badges",
            "DateOfBirth": "2018-02-28",
            "EarnedBadges": [
                {"Id": "b1", "TriggerValue": 3, "Threshold": 3.0, "EarnedAt": "2025-12-24T18:00:00.9999999Z"},
                {"Id": "b2", "BadgeName": "“Brave”", "Rarity": "epic", "EarnedAt": "2025-12-24T18:00:00.9999999"},
            ],
        },
    ]


def _signups() -> list[Document]:
    def signup(id_: str, email: str, **more: str | int | bool) -> Document:
        created, expires = "2026-01-31T07:50:00.1234567", "2026-01-31T08:05:00.1234567"
        return {"id": id_, "email": email, "Code": "012345", "CreatedAt": created, "ExpiresAt": expires, **more}

    return [
        signup("signup-1", "Ann.Lee@Example.com"),
        signup("signup-1", "ann.lee@example.com", IsSignin=True),  # the same id in another partition
        signup(PLAIN, "ann.lee@example.com", FailedAttempts=5),
        signup(DASHED, "ünïcode+tag@例え.example", DisplayName="Lee, Ann", IsUsed=True),
    ]


def _sessions() -> list[Document]:
    return [
        {"id": "ses-1", "accountId": ACCOUNT, "Status": 1, "StartTime": "2026-01-30T19:00:00"},
        {"id": "ses-2", "accountId": ACCOUNT, "Status": "InProgress", "StartTime": "2026-01-30T19:00:00.0000000Z"},
        {
            "id": "ses-orphan",
            "accountId": "acc-that-never-came",
            "Status": 2,
            "PlayerNames": "Ann, Bob,Zoë",
            "CompassValues": '{"courage":{"CurrentValue":1.50,"StartingValue":0,"LastUpdated":"2026-01-30T19:00:00"}}',
            "StartTime": "2026-01-30T18:00:00.1234567",
            "IsPaused": True,
            "PausedAt": "2026-01-30T18:30:00.7654321",
            "Discriminator": "GameSession",
        },
        {
            "id": "ses-new",
            "accountId": DASHED,
            "Status": "Paused",
            "PlayerNames": ["Lee, Ann", "Bob"],
            "CompassValues": {"mut, größe": {"CurrentValue": -1, "History": [{"delta": -1}]}},
            "Achievements": ["first, steps"],
            "CharacterAssignments": [{"CharacterId": "c1", "Player": {"Name": "Lee, Ann"}}],
            "StartTime": "2026-01-30T20:00:00.0000001Z",
            "$type": "GameSession",
        },
        {"id": "ses-1", "accountId": PLAIN, "Status": "Completed", "EndTime": END_OF_TIME, "ElapsedTime": "1.02:03:04"},
        {"id": "ses-empty-map", "accountId": ACCOUNT, "Status": 4, "CompassValues": "", "PlayerNames": ""},
    ]
