"""How each aggregate of the example lives in both stores (`CROSSFEED_MAPPINGS=core.domain.mappings:MAPPINGS`)."""

from __future__ import annotations

from typing import Any

from core.domain import tables
from core.domain.account import Account
from core.domain.game_session import GameSession
from core.domain.pending_signup import PendingSignup
from core.domain.user_profile import UserProfile
from core.lookup import Lookup
from core.mapping import EntityMapping

ACCOUNTS = EntityMapping(
    Account,
    table=tables.accounts,
    container="Accounts",
    partition_key="/id",
    lookups=(Lookup("email", ignore_case=True), Lookup("auth0_user_id")),
)
USER_PROFILES = EntityMapping(UserProfile, table=tables.user_profiles, container="UserProfiles", partition_key="/id")
PENDING_SIGNUPS = EntityMapping(
    PendingSignup, table=tables.pending_signups, container="PendingSignups", partition_key="/email"
)
GAME_SESSIONS = EntityMapping(
    GameSession, table=tables.game_sessions, container="GameSessions", partition_key="/accountId"
)

MAPPINGS: list[EntityMapping[Any]] = [ACCOUNTS, USER_PROFILES, PENDING_SIGNUPS, GAME_SESSIONS]
