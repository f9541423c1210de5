"""Makes sure that a read sees what its session has seen: without that, nothing that a read does not find is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.cosmos.failures import DRIVER_ERRORS, read_error
from core.errors import ConfigurationError

if TYPE_CHECKING:
    from core.cosmos.client import CosmosStore

_TOO_WEAK: Final = frozenset({"Eventual", "ConsistentPrefix"})


async def check_sessions(store: CosmosStore) -> None:
    """Look at the default consistency of the account.

    Raises:
        ConfigurationError: it is weaker than that of sessions.
        StoreUnavailableError: Cosmos DB did not answer.

    """
    try:
        account = await store.client._get_database_account()  # noqa: SLF001 - the SDK's only way to ask
    except DRIVER_ERRORS as error:
        raise read_error(error, f"reading the account at {store.endpoint}") from error
    level = (account.ConsistencyPolicy or {}).get("defaultConsistencyLevel")
    if level in _TOO_WEAK:
        msg = (
            f"the account at {store.endpoint} has default consistency {level}: what a read does not find may be there"
            " all the same, so no delete can be believed; set it to Session or stronger"
        )
        raise ConfigurationError(msg)
