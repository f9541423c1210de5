"""The example's tables: one per aggregate, identity as primary key, an index for each look-up.

No foreign keys between them: documents of different containers arrive in any order. Whatever is nested is JSONB.
Text that is sorted or compared by code point is indexed in the collation "C", as the repositories ask for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

if TYPE_CHECKING:
    from sqlalchemy.sql.elements import ColumnElement

metadata = sa.MetaData()


def _text(name: str, default: str = "") -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


def _optional_text(name: str) -> sa.Column[str | None]:
    return sa.Column(name, sa.Text)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _moment(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())


def _optional_moment(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.DateTime(timezone=True))


def _json(name: str, default: str) -> sa.Column[Any]:
    return sa.Column(name, JSONB(none_as_null=True), nullable=False, server_default=sa.text(f"'{default}'"))


def _list(name: str) -> sa.Column[Any]:
    return _json(name, "[]")


def _map(name: str) -> sa.Column[Any]:
    return _json(name, "{}")


accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("email"),
    _text("auth0_user_id"),
    _text("display_name"),
    _text("role", "Guest"),
    _list("user_profile_ids"),
    _list("completed_scenario_ids"),
    _map("subscription"),
    _map("settings"),
    _moment("created_at"),
    _moment("last_login_at"),
)

user_profiles = sa.Table(
    "user_profiles",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _text("name"),
    _list("preferred_fantasy_themes"),
    _optional_moment("date_of_birth"),
    _flag("is_guest"),
    _flag("is_npc"),
    _text("age_group_name", "6-9"),
    _optional_text("avatar_media_id"),
    _optional_text("selected_avatar_media_id"),
    _list("earned_badges"),
    _flag("has_completed_onboarding"),
    _moment("created_at"),
    _moment("updated_at"),
    _optional_text("account_id"),
    _optional_text("pronouns"),
    _optional_text("bio"),
)

pending_signups = sa.Table(
    "pending_signups",
    metadata,
    sa.Column("email", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    _text("display_name"),
    _text("code"),
    _moment("created_at"),
    _moment("expires_at"),
    _flag("is_used"),
    _flag("is_signin"),
    _count("failed_attempts"),
)

game_sessions = sa.Table(
    "game_sessions",
    metadata,
    sa.Column("account_id", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    _text("scenario_id"),
    _text("profile_id"),
    _list("player_names"),
    _text("status", "NotStarted"),
    _text("current_scene_id"),
    _list("choice_history"),
    _list("echo_history"),
    _map("compass_values"),
    _list("achievements"),
    _list("character_assignments"),
    _moment("start_time"),
    _optional_moment("end_time"),
    _text("elapsed_time", "00:00:00"),
    _flag("is_paused"),
    _optional_moment("paused_at"),
    _count("scene_count"),
    _text("target_age_group_name"),
    _optional_text("selected_character_id"),
)

# What a handler of events makes (core.domain.welcomes); no document of its own.
welcomes = sa.Table("welcomes", metadata, sa.Column("account_id", sa.Text, primary_key=True), _text("greeting"))


def _by_code_point(column: sa.Column[str]) -> ColumnElement[str]:
    return sa.collate(column, "C")


sa.Index("accounts_by_email", sa.func.lower(accounts.c.email))
sa.Index("accounts_by_auth0_user_id", accounts.c.auth0_user_id)

sa.Index(
    "user_profiles_by_account",
    user_profiles.c.account_id,
    _by_code_point(user_profiles.c.name),
    _by_code_point(user_profiles.c.id),
)
sa.Index(
    "user_profiles_by_guest",
    user_profiles.c.is_guest,
    _by_code_point(user_profiles.c.name),
    _by_code_point(user_profiles.c.id),
)

# Sign-ups by e-mail are found by the primary key, which begins with it.
sa.Index("pending_signups_by_expiry", pending_signups.c.expires_at)

sa.Index("game_sessions_by_account", game_sessions.c.account_id, game_sessions.c.start_time.desc())
sa.Index("game_sessions_by_profile", game_sessions.c.profile_id, game_sessions.c.start_time.desc())
sa.Index("game_sessions_by_status", game_sessions.c.status, game_sessions.c.start_time.desc())
sa.Index("game_sessions_by_scenario", game_sessions.c.account_id, game_sessions.c.scenario_id, game_sessions.c.status)
# An id is looked for without its account as well.
sa.Index("game_sessions_by_id", game_sessions.c.id)
sa.Index("pending_signups_by_id", pending_signups.c.id)
