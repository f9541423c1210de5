"""Reads documents as the legacy application does, which knows nothing of Crossfeed: so this imports nothing of it.

Strict where that application is: a property of the wrong kind, a choice that it does not know, a date that is none or a
document of no type raise ValueError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Json = Any
Reads = Callable[[Json], Json]

_DATE = re.compile(r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d:\d\d)(?:\.(\d{1,7}))?)?(Z|[+-]\d\d:\d\d)?")


def _text(value: Json) -> Json:
    if not isinstance(value, str):
        msg = f"{value!r} is no text"
        raise ValueError(msg)  # noqa: TRY004 - as the reader says
    return value


def _flag(value: Json) -> Json:
    if not isinstance(value, bool):
        msg = f"{value!r} is neither true nor false"
        raise ValueError(msg)  # noqa: TRY004 - as the reader says
    return value


def _number(value: Json) -> Json:
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{value!r} is no number"
        raise ValueError(msg)  # noqa: TRY004 - as the reader says
    return float(value)


def _date(value: Json) -> Json:
    """Return a date's parts down to the tick, the seventh digit, and its offset where it has one."""
    match = _DATE.fullmatch(_text(value))
    if match is None:
        msg = f"{value!r} is no date"
        raise ValueError(msg)
    day, time, fraction, offset = match.groups()
    return day, time or "00:00:00", (fraction or "").ljust(7, "0"), offset


def _optional(read: Reads) -> Reads:
    return lambda value: None if value is None else read(value)


def _choice(*names: str) -> Reads:
    def read(value: Json) -> Json:
        if isinstance(value, int) and not isinstance(value, bool) and value < len(names):
            return names[value]
        if value not in names:
            msg = f"{value!r} is none of {names}"
            raise ValueError(msg)
        return value

    return read


def _listed(read: Reads) -> Reads:
    def items(value: Json) -> Json:
        if isinstance(value, str):
            value = [part for part in map(str.strip, value.split(",")) if part]
        if not isinstance(value, list):
            msg = f"{value!r} is no list"
            raise ValueError(msg)  # noqa: TRY004 - as the reader says
        return [read(item) for item in value]

    return items


def _mapped(read: Reads) -> Reads:
    def entries(value: Json) -> Json:
        if isinstance(value, str):
            value = json.loads(value) if value.strip() else {}
        return {name: read(item) for name, item in value.items()}

    return entries


def _any(value: Json) -> Json:
    return value


Properties = dict[str, tuple[Reads, Json]]
"""How each property is read, and what it is where a document leaves it out (None: the reader's own default)."""


def _part(properties: Properties) -> Reads:
    def read(value: Json) -> Json:
        known = {
            name: reads(value[name]) if name in value else default for name, (reads, default) in properties.items()
        }
        return known | {"": {name: item for name, item in value.items() if name not in properties}}

    return read


_TEXT: tuple[Reads, Json] = (_text, "")
_MAYBE: tuple[Reads, Json] = (_optional(_text), None)
_WHEN: tuple[Reads, Json] = (_date, None)
_MAYBE_WHEN: tuple[Reads, Json] = (_optional(_date), None)
_FLAG: tuple[Reads, Json] = (_flag, False)
_NUMBER: tuple[Reads, Json] = (_number, 0.0)


def _all(kind: tuple[Reads, Json], *names: str) -> Properties:
    return dict.fromkeys(names, kind)


_SUBSCRIPTION = _part(
    {"Type": (_choice("Free", "Monthly", "Annual", "Lifetime", "Individual"), "Free")}
    | _all(_TEXT, "ProductId", "Tier")
    | _all(_MAYBE_WHEN, "ValidUntil", "LastVerified", "StartDate", "EndDate")
    | {"IsActive": _FLAG, "PurchaseToken": _MAYBE, "PurchasedScenarios": (_listed(_text), [])}
)
_SETTINGS = _part(
    _all(_FLAG, "CacheCredentials", "RequireAuthOnStartup", "NotificationsEnabled")
    | {"PreferredLanguage": (_text, "en"), "Theme": (_optional(_text), "Light")}
)
_BADGE = _part(
    _all(_TEXT, "Id", "BadgeConfigurationId", "BadgeName", "BadgeMessage", "Axis", "ImageId")
    | _all(_NUMBER, "TriggerValue", "Threshold")
    | _all(_MAYBE, "GameSessionId", "ScenarioId")
    | {"EarnedAt": _WHEN}
)
_CHOICE = _part(
    _all(_TEXT, "SceneId", "SceneTitle", "ChoiceText", "NextScene", "PlayerId")
    | _all(_MAYBE, "CompassAxis", "CompassDirection")
    | {"CompassDelta": (_optional(_number), None), "ChosenAt": _WHEN}
)
_ECHO = _part(_all(_TEXT, "EchoType", "Description") | {"Strength": _NUMBER, "Timestamp": _WHEN})
_COMPASS = _part(
    _all(_NUMBER, "CurrentValue", "StartingValue") | {"History": (_listed(_any), []), "LastUpdated": _WHEN}
)

_TYPES: dict[str, Reads] = {
    "Account": _part(
        _all(_TEXT, "id", "Email", "Auth0UserId", "DisplayName")
        | _all((_listed(_text), []), "UserProfileIds", "CompletedScenarioIds")
        | _all(_WHEN, "CreatedAt", "LastLoginAt")
        | {"Role": (_text, "Guest"), "Subscription": (_SUBSCRIPTION, None), "Settings": (_SETTINGS, None)}
    ),
    "UserProfile": _part(
        _all(_TEXT, "id", "Name")
        | _all(_FLAG, "IsGuest", "IsNpc", "HasCompletedOnboarding")
        | _all(_MAYBE, "AvatarMediaId", "SelectedAvatarMediaId", "AccountId", "Pronouns", "Bio")
        | _all(_WHEN, "CreatedAt", "UpdatedAt")
        | {"AgeGroupName": (_text, "6-9"), "DateOfBirth": _MAYBE_WHEN}
        | {"PreferredFantasyThemes": (_listed(_text), []), "EarnedBadges": (_listed(_BADGE), [])}
    ),
    "PendingSignup": _part(
        _all(_TEXT, "id", "email", "DisplayName", "Code")
        | _all(_WHEN, "CreatedAt", "ExpiresAt")
        | _all(_FLAG, "IsUsed", "IsSignin")
        | {"FailedAttempts": _NUMBER}
    ),
    "GameSession": _part(
        _all(_TEXT, "id", "ScenarioId", "accountId", "ProfileId", "CurrentSceneId", "TargetAgeGroupName")
        | {"Status": (_choice("NotStarted", "InProgress", "Paused", "Completed", "Abandoned"), "NotStarted")}
        | {"PlayerNames": (_listed(_text), []), "ElapsedTime": (_text, "00:00:00"), "SceneCount": _NUMBER}
        | {"ChoiceHistory": (_listed(_CHOICE), []), "EchoHistory": (_listed(_ECHO), [])}
        | {"CompassValues": (_mapped(_COMPASS), {}), "SelectedCharacterId": _MAYBE, "IsPaused": _FLAG}
        | _all((_listed(_any), []), "Achievements", "CharacterAssignments")
        | {"StartTime": _WHEN, "EndTime": _MAYBE_WHEN, "PausedAt": _MAYBE_WHEN}
    ),
}
_OF_CONTAINER = {"Accounts": "Account", "UserProfiles": "UserProfile"}
_OF_CONTAINER |= {"PendingSignups": "PendingSignup", "GameSessions": "GameSession"}
_SYSTEM = {"_rid", "_self", "_etag", "_attachments", "_ts", "_lsn"}


def view(container: str, document: dict[str, Json]) -> Json:
    """Return what the legacy application sees of a document, None where it must look away (a tombstone, a marker).

    Under the empty name are the properties that it does not know and hands on.

    Raises:
        ValueError: it could not read the document.

    """
    ours = document.get("crossfeed") or {}
    if ours.get("kind") or ours.get("deleted"):
        return None
    kind = _OF_CONTAINER[container]
    for name in ("Discriminator", "$type"):
        said = document.get(name, kind)
        if said.split(",")[0].split(".")[-1] != kind:
            msg = f"a document of type {said!r} in {container}"
            raise ValueError(msg)
    return _TYPES[kind]({name: value for name, value in document.items() if name not in _SYSTEM | {"crossfeed"}})
