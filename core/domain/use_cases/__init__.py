"""What people do in the example, written once for both stores.

Each function takes a unit of work, touches one logical partition and leaves the commit to its caller, who may so repeat
it after a conflict:

    async with db.unit_of_work() as work:
        await use_cases.rename_account(work, "acc-1", display_name="Lee, Ann")
        await work.commit()

What needs two partitions takes a factory of units of work instead, commits each, and may be repeated after a crash
between them. The clock, ids and codes come in as parameters.
"""

from __future__ import annotations

from core.domain.use_cases.accounts import (
    change_account_email,
    complete_scenario,
    delete_account,
    log_in,
    register_account,
    rename_account,
    subscribe,
)
from core.domain.use_cases.common import NotAllowedError, UnitOfWorkFactory
from core.domain.use_cases.profiles import add_guest, award_badge, create_profile, delete_profile
from core.domain.use_cases.sessions import (
    advance_session,
    delete_session,
    finish_session,
    pause_session,
    resume_session,
    start_session,
)
from core.domain.use_cases.signups import Verification, change_signup_email, delete_signup, sign_up, verify_code

__all__ = [
    "NotAllowedError",
    "UnitOfWorkFactory",
    "Verification",
    "add_guest",
    "advance_session",
    "award_badge",
    "change_account_email",
    "change_signup_email",
    "complete_scenario",
    "create_profile",
    "delete_account",
    "delete_profile",
    "delete_session",
    "delete_signup",
    "finish_session",
    "log_in",
    "pause_session",
    "register_account",
    "rename_account",
    "resume_session",
    "sign_up",
    "start_session",
    "subscribe",
    "verify_code",
]
