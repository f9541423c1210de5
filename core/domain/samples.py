"""Realistic documents as the legacy application stored them, every awkward habit of real ones included."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from core.domain import awkward
from core.domain.game_session import SessionStatus

if TYPE_CHECKING:
    from faker import Faker

    from core.content import Document

_NOW = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
_THEMES = ("dragons", "space", "pirates", "fairies", "robots", "detectives", "under the sea")
_AXES = ("courage", "kindness", "honesty", "wisdom")
_AGE_GROUPS = ("1-2", "3-5", "6-9", "10-12", "13-18")
_SHARES = (("Accounts", 0.25), ("UserProfiles", 0.3), ("PendingSignups", 0.1))
_OLD = 0.35
"""The share of documents that an older version of the application wrote."""


def sample_documents(count: int, seed: int) -> dict[str, list[Document]]:
    """Return documents by container: `count` in all, or the awkward cases alone where `count` is less than those.

    The same arguments give the same documents. They are foreign ones, without Crossfeed's property. Sessions come
    first, so that who loads them in order meets sessions before their accounts. Needs the extra `local`.
    """
    from faker import Faker  # noqa: PLC0415 - an extra that only demos and tests install

    fake = Faker(use_weighting=False)
    fake.seed_instance(seed)
    make = _Samples(fake, random.Random(seed))  # noqa: S311 - nothing secret
    documents = awkward.documents()
    rest = max(0, count - sum(map(len, documents.values())))
    for container, share in _SHARES:
        documents[container] += [make.of(container) for _ in range(int(rest * share))]
    missing = max(0, count - sum(map(len, documents.values())))
    documents["GameSessions"] += [make.of("GameSessions") for _ in range(missing)]
    return documents


class _Samples:
    """Makes documents that refer to each other."""

    def __init__(self, fake: Faker, rng: random.Random) -> None:
        self._fake = fake
        self._rng = rng
        self._serial = 100  # the awkward documents have the low numbers
        self._account_ids = [awkward.ACCOUNT]
        self._profile_ids = [awkward.PROFILE]

    def of(self, container: str) -> Document:
        """Make a document of this container."""
        old = self._rng.random() < _OLD
        match container:
            case "Accounts":
                document = self._account(old=old)
            case "UserProfiles":
                document = self._profile(old=old)
            case "PendingSignups":
                document = self._signup(old=old)
            case _:
                document = self._session(old=old)
        return document | self._discriminator(document, container, old=old)

    def _account(self, *, old: bool) -> Document:
        id_ = self._id("acc")
        self._account_ids.append(id_)
        kind = self._rng.randrange(5)
        start = self._past()
        subscription: Document = {
            "Type": kind if old else ("Free", "Monthly", "Annual", "Lifetime", "Individual")[kind],
            "ProductId": "" if kind == 0 else f"mystira.{self._fake.word()}",
            "ValidUntil": None if kind in {0, 3} else self._when(start + timedelta(days=365), old=old),
            "IsActive": kind > 0,
            "PurchasedScenarios": self._listed([self._scenario() for _ in range(self._rng.randrange(3))], old=old),
            "Tier": self._rng.choice(("", "Basic", "Premium")),
            "StartDate": None if kind == 0 else self._when(start, old=old),
            "EndDate": awkward.END_OF_TIME if kind == 3 else None,  # noqa: PLR2004 - Lifetime
        }
        if kind:
            subscription["PurchaseToken"] = self._fake.sha1()
            subscription["LastVerified"] = self._when(self._past(), old=old)
        document: Document = {
            "id": id_,
            "Email": self._email(),
            "Auth0UserId": f"auth0|{self._rng.getrandbits(96):024x}",
            "DisplayName": self._name(),
            "Role": self._rng.choice(("Guest", "Guest", "Guest", "Parent", "Admin")),
            "UserProfileIds": self._listed([self._id("prof") for _ in range(self._rng.randrange(4))], old=old),
            "CompletedScenarioIds": self._listed([self._scenario() for _ in range(self._rng.randrange(5))], old=old),
            "Subscription": subscription,
            "CreatedAt": self._when(start, old=old),
            "LastLoginAt": self._when(self._past(), old=old),
        }
        if not old:
            document["Settings"] = {
                "CacheCredentials": self._flip(),
                "RequireAuthOnStartup": self._flip(),
                "PreferredLanguage": self._rng.choice(("en", "de", "ar", "ja")),
                "NotificationsEnabled": self._flip(),
                "Theme": self._rng.choice(("Light", "Dark", None)),
            }
        return document

    def _profile(self, *, old: bool) -> Document:
        id_ = self._id("prof")
        self._profile_ids.append(id_)
        guest = self._rng.random() < 0.2  # noqa: PLR2004 - one in five
        themes = self._rng.sample(_THEMES, self._rng.randrange(4))
        document: Document = {
            "id": id_,
            "Name": self._name(),
            "PreferredFantasyThemes": self._listed(themes, old=old),
            "DateOfBirth": None if guest else f"{self._fake.date_of_birth(None, 3, 12):%Y-%m-%dT00:00:00}",
            "IsGuest": guest,
            "IsNpc": self._rng.random() < 0.05,  # noqa: PLR2004 - a few
            "AgeGroupName": self._rng.choice(_AGE_GROUPS),
            "AvatarMediaId": f"avatar-{self._rng.randrange(40)}",
            "EarnedBadges": [self._badge(old=old) for _ in range(self._rng.randrange(4))],
            "HasCompletedOnboarding": self._flip(),
            "CreatedAt": self._when(self._past(), old=old),
            "UpdatedAt": self._when(self._past(), old=old),
        }
        if not guest:
            document["AccountId"] = self._rng.choice(self._account_ids)
        if not old:
            document |= {"Pronouns": self._rng.choice((None, "she/her", "he/him", "they/them"))}
            document |= {"Bio": self._fake.sentence(), "SelectedAvatarMediaId": None}
        return document

    def _badge(self, *, old: bool) -> Document:
        axis = self._rng.choice(_AXES)
        return {
            "Id": self._guid(),
            "BadgeConfigurationId": f"badge-{axis}",
            "BadgeName": f"{axis.title()} of the {self._fake.word()}",
            "BadgeMessage": self._fake.sentence(),
            "Axis": axis,
            "TriggerValue": self._rng.randrange(1, 40) / 4,
            "Threshold": self._rng.randrange(1, 6),
            "EarnedAt": self._when(self._past(), old=old),
            "ImageId": f"img-{axis}",
        }

    def _signup(self, *, old: bool) -> Document:
        created = self._past()
        return {
            "id": self._id("signup"),
            "email": self._email(),
            "DisplayName": self._name(),
            "Code": f"{self._rng.randrange(10**6):06d}",
            "CreatedAt": self._when(created, old=old),
            "ExpiresAt": self._when(created + timedelta(minutes=15), old=old),
            "IsUsed": self._flip(),
            "IsSignin": self._flip(),
            "FailedAttempts": self._rng.randrange(6),
        }

    def _session(self, *, old: bool) -> Document:
        start = self._past()
        status = self._rng.randrange(len(SessionStatus))
        choices = self._rng.randrange(8)
        compass = {axis: self._compass(start, old=old) for axis in self._rng.sample(_AXES, self._rng.randrange(4))}
        document: Document = {
            "id": self._id("ses"),
            "ScenarioId": self._scenario(),
            "accountId": self._rng.choice(self._account_ids) if self._rng.random() < 0.95 else self._id("acc"),  # noqa: PLR2004 - a few without
            "ProfileId": self._rng.choice(self._profile_ids),
            "PlayerNames": self._listed([self._name(plain=old) for _ in range(self._rng.randrange(1, 4))], old=old),
            "Status": status if old else list(SessionStatus)[status].value,
            "CurrentSceneId": f"scene-{choices}",
            "ChoiceHistory": [self._choice(start, place, old=old) for place in range(choices)],
            "EchoHistory": [
                {
                    "EchoType": self._rng.choice(_AXES),
                    "Description": self._fake.sentence(),
                    "Strength": self._rng.randrange(1, 21) / 20,
                    "Timestamp": self._when(start, old=old),
                }
                for _ in range(self._rng.randrange(2))
            ],
            "CompassValues": json.dumps(compass) if old else compass,
            "Achievements": [{"Id": self._guid(), "Title": self._fake.word()} for _ in range(self._rng.randrange(2))],
            "CharacterAssignments": [{"CharacterId": f"char-{self._rng.randrange(9)}", "Role": "hero"}],
            "StartTime": self._when(start, old=old),
            "ElapsedTime": f"00:{choices:02d}:{self._rng.randrange(60):02d}",
            "IsPaused": status == 2,  # noqa: PLR2004 - Paused
            "SceneCount": choices + 1,
            "TargetAgeGroupName": self._rng.choice(_AGE_GROUPS),
        }
        if status == 2:  # noqa: PLR2004 - Paused
            document["PausedAt"] = self._when(start + timedelta(minutes=choices), old=old)
        if status > 2:  # noqa: PLR2004 - Completed, Abandoned
            document["EndTime"] = self._when(start + timedelta(minutes=choices), old=old)
        return document

    def _choice(self, start: datetime, place: int, *, old: bool) -> Document:
        choice: Document = {
            "SceneId": f"scene-{place}",
            "SceneTitle": self._fake.sentence(3),
            "ChoiceText": self._fake.sentence(6),
            "NextScene": f"scene-{place + 1}",
            "PlayerId": self._rng.choice(self._profile_ids),
            "ChosenAt": self._when(start + timedelta(minutes=place), old=old),
        }
        if self._flip():
            choice |= {"CompassAxis": self._rng.choice(_AXES), "CompassDirection": "positive", "CompassDelta": 0.5}
        return choice

    def _compass(self, start: datetime, *, old: bool) -> Document:
        value = self._rng.randrange(-20, 21) / 4
        history = [{"Change": value, "At": self._when(start, old=old)}] if value else []
        updated = self._when(start, old=old)
        return {"CurrentValue": value, "StartingValue": 0, "History": history, "LastUpdated": updated}

    # -- values

    def _discriminator(self, document: Document, container: str, *, old: bool) -> Document:
        kind = container.removesuffix("s")
        extra: Document = {"Discriminator": kind} if old else {"$type": kind}
        if self._rng.random() < 0.1:  # noqa: PLR2004 - one in ten
            extra["__legacy"] = {"importedFrom": "v1", "row": self._rng.randrange(10**6), "ok": True}
        return extra

    def _id(self, prefix: str) -> str:
        self._serial += 1
        return self._rng.choice((f"{prefix}-{self._serial}", self._guid(), f"{self._rng.getrandbits(128):032x}"))

    def _guid(self) -> str:
        digits = f"{self._rng.getrandbits(128):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def _scenario(self) -> str:
        return f"scenario-{self._rng.randrange(30)}"

    def _name(self, *, plain: bool = False) -> str:
        if not plain and self._rng.random() < 0.15:  # noqa: PLR2004 - about one in seven
            return self._rng.choice(awkward.NAMES)
        name: str = self._fake.first_name() if plain else self._fake.name()
        return name

    def _email(self) -> str:
        self._serial += 1
        name = f"{self._fake.first_name()}.{self._fake.last_name()}{self._serial}@example.com"
        return name if self._rng.random() < _OLD else name.lower()

    def _past(self) -> datetime:
        return _NOW - timedelta(microseconds=self._rng.randrange(2 * 365 * 86_400 * 10**6))

    def _when(self, moment: datetime, *, old: bool) -> str:
        """Spell a date: .NET's seven digits, without an offset in old documents."""
        return f"{moment:%Y-%m-%dT%H:%M:%S.%f}{self._rng.randrange(10)}{'' if old else 'Z'}"

    def _listed(self, items: list[str], *, old: bool) -> Any:  # noqa: ANN401 - a list or its comma-joined text
        return ",".join(items) if old else items

    def _flip(self) -> bool:
        return self._rng.random() < 0.5  # noqa: PLR2004 - even
