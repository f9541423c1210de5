"""Opens Cosmos DB with the official asynchronous client, set up so that no write is ever repeated behind our back."""

from __future__ import annotations

import base64
import binascii
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import structlog
from azure.core.pipeline.transport import AioHttpTransport
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient
from azure.identity.aio import DefaultAzureCredential

from core.cosmos.failures import DRIVER_ERRORS, NOT_FOUND, CosmosUnavailableError, read_error
from core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from azure.core.credentials_async import AsyncTokenCredential
    from azure.cosmos.aio import ContainerProxy

    from core.mapping import EntityMapping
    from core.settings import Settings

_log = structlog.get_logger()

CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 10
TTL_BY_DOCUMENT: Final = -1
"""A container's default TTL that lets documents live for ever unless they carry a `ttl` of their own."""

_NO_RETRIES: Final[dict[str, Any]] = {
    # Back-pressure is decided by the relay and the repositories, which see every 429 (0 would mean "the default": 9).
    "retry_throttle_total": -1,
    # The client takes a connection that was cut after the request left for one that was never made, and would send a
    # write a second time: its own first attempt would then answer 409 or 412.
    "retry_total": 0,
    "retry_connect": 0,
    "retry_read": 0,
    "retry_status": 0,
    "retry_write": 0,
}


class CosmosStore:
    """One database of a Cosmos DB account.

    Args:
        client: the opened client; whoever opened it closes it.
        endpoint: the account's address, for messages.
        database: the name of the database.

    """

    def __init__(self, client: CosmosClient, endpoint: str, database: str) -> None:
        self.client = client
        self.endpoint = endpoint
        self.database = database
        self._database = client.get_database_client(database)
        self._containers: dict[str, ContainerProxy] = {}
        self._found: set[str] = set()

    def container(self, mapping: EntityMapping[Any]) -> ContainerProxy:
        """Return the container of a mapping."""
        return self.container_named(mapping.container)

    def container_named(self, name: str) -> ContainerProxy:
        """Return a container by its name."""
        if name not in self._containers:
            self._containers[name] = self._database.get_container_client(name)
        return self._containers[name]

    async def existing_container(self, mapping: EntityMapping[Any]) -> ContainerProxy:
        """Return the container of a mapping, having made sure once that there is one.

        The client reads a container's properties with the first request for a document, and the 404 that it gets for
        a container that is missing looks like that of a missing document.

        Raises:
            StoreUnavailableError: there is none, or Cosmos DB did not answer.

        """
        container = self.container(mapping)
        if mapping.container not in self._found:
            try:
                await container.read()
            except DRIVER_ERRORS as error:
                if _is_missing(error):
                    msg = f"container {mapping.container!r} of mapping {mapping.name} does not exist"
                    raise CosmosUnavailableError(msg) from error
                raise read_error(error, f"opening container {mapping.container!r}") from error
            self._found.add(mapping.container)
        return container

    async def check(self, mappings: Iterable[EntityMapping[Any]]) -> None:
        """Make sure that the account, the database and every container are as Crossfeed needs them.

        Raises:
            ConfigurationError: they are not; the message names everything that is wrong, and the cure.
            StoreUnavailableError: a request failed for another reason.

        """
        await self._check_account()
        try:
            await self._database.read()
        except DRIVER_ERRORS as error:
            if _is_missing(error):
                msg = (
                    f"the account at {self.endpoint} has no database {self.database!r}:"
                    " create it, or set CROSSFEED_COSMOS_DATABASE"
                )
                raise ConfigurationError(msg) from error
            raise _setup_error(error, self.endpoint) from error
        if problems := [problem for mapping in mappings async for problem in self._problems(mapping)]:
            msg = f"Cosmos DB database {self.database!r}: " + "; ".join(problems)
            raise ConfigurationError(msg)

    async def provision(self, mappings: Iterable[EntityMapping[Any]], throughput: int | None = None) -> None:
        """Create the database and the containers that are not there.

        Args:
            mappings: whose containers.
            throughput: RU/s of each container that is created, None for the account's default.

        Raises:
            StoreUnavailableError: Cosmos DB did not do it.

        """
        try:
            await self.client.create_database_if_not_exists(self.database)
            for mapping in mappings:
                await self._database.create_container_if_not_exists(
                    mapping.container,
                    partition_key=_partition_key(mapping),
                    default_ttl=TTL_BY_DOCUMENT,
                    unique_key_policy=_unique_key_policy(mapping),
                    offer_throughput=throughput,
                )
        except DRIVER_ERRORS as error:
            raise read_error(error, f"creating containers in database {self.database!r}") from error

    async def _check_account(self) -> None:
        try:
            account = await self.client._get_database_account()  # noqa: SLF001 - the SDK's only way to ask
        except DRIVER_ERRORS as error:
            raise _setup_error(error, self.endpoint) from error
        if account._EnableMultipleWritableLocations:  # noqa: SLF001 - the SDK's only name for it
            msg = (
                f"the account at {self.endpoint} has multi-region writes switched on; Crossfeed needs a single write"
                " region, because two regions can each accept a write that the other then overwrites"
            )
            raise ConfigurationError(msg)

    async def _problems(self, mapping: EntityMapping[Any]) -> AsyncIterator[str]:
        name = f"container {mapping.container!r} of mapping {mapping.name}"
        try:
            properties = await self.container(mapping).read()
        except DRIVER_ERRORS as error:
            if not _is_missing(error):
                raise _setup_error(error, self.endpoint) from error
            yield (
                f"{name} does not exist: create it with partition key {', '.join(mapping.paths)}"
                f" and default TTL {TTL_BY_DOCUMENT} (on, no default)"
            )
            return
        paths = tuple(properties["partitionKey"]["paths"])
        if paths != mapping.paths:
            yield f"{name} has partition key {', '.join(paths)}, the mapping says {', '.join(mapping.paths)}"
        if properties.get("defaultTtl") is None:
            yield f"{name} has no TTL: set its default TTL to {TTL_BY_DOCUMENT} (on, no default), tombstones need it"
        elif properties["defaultTtl"] != TTL_BY_DOCUMENT:
            # What expires shows in no feed: it is a hard delete, found late by the reconcile timer.
            _log.warning("cosmos.documents_expire", container=mapping.container, default_ttl_s=properties["defaultTtl"])
        unique = {path for key in properties.get("uniqueKeyPolicy", {}).get("uniqueKeys", []) for path in key["paths"]}
        if unknown := sorted(unique - set(mapping.unique_keys)):
            yield f"{name} has unique keys that the mapping does not name: unique_keys=({', '.join(unknown)})"


@asynccontextmanager
async def open_cosmos(settings: Settings) -> AsyncIterator[CosmosStore]:
    """Connect to the account that the settings name.

    async with open_cosmos(settings) as store:
        await store.check(mappings)

    Without a key Microsoft Entra ID is used (DefaultAzureCredential).

    Raises:
        ConfigurationError: no endpoint, one where no Cosmos DB answers, or credentials that it refuses.

    """
    endpoint = _checked_endpoint(settings)
    async with AsyncExitStack() as stack:
        credential: str | AsyncTokenCredential
        if settings.cosmos_key is not None:
            credential = _checked_key(settings.cosmos_key.get_secret_value())
        else:
            credential = await stack.enter_async_context(DefaultAzureCredential())
        transport = await _open_transport(stack, use_env_settings=settings.cosmos_use_proxy_settings)
        client = CosmosClient(
            endpoint,
            credential,
            transport=transport,
            # An emulator announces addresses that only it can reach; a real account's regions must be followed.
            enable_endpoint_discovery=".documents.azure." in (urlsplit(endpoint).hostname or ""),
            connection_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            enable_compact_utf8_item_writes=True,
            **_NO_RETRIES,
        )
        stack.push_async_exit(client)  # so that one whose opening fails half-way, or is cancelled, is closed too
        try:
            await client.__aenter__()
        except DRIVER_ERRORS as error:
            raise _setup_error(error, endpoint) from error
        yield CosmosStore(client, endpoint, settings.cosmos_database)


async def _open_transport(stack: AsyncExitStack, *, use_env_settings: bool) -> AioHttpTransport:
    transport = AioHttpTransport(use_env_settings=use_env_settings)
    stack.push_async_callback(transport.close)
    await transport.open()
    session: Any = transport.session
    # aiohttp repeats a PUT whose pooled connection was cut, that is, a replace that may have been carried out.
    session._retry_connection = False  # noqa: SLF001 - aiohttp has no other switch; a test cuts connections
    return transport


def _checked_endpoint(settings: Settings) -> str:
    endpoint = settings.require_cosmos()
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = f"CROSSFEED_COSMOS_ENDPOINT={endpoint!r} is no address like https://<account>.documents.azure.com:443/"
        raise ConfigurationError(msg)
    return endpoint


def _checked_key(key: str) -> str:
    try:
        base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError) as error:
        msg = "CROSSFEED_COSMOS_KEY is no account key: it is not base64"
        raise ConfigurationError(msg) from error
    return key


def _is_missing(error: BaseException) -> bool:
    return getattr(error, "status_code", None) == NOT_FOUND


def _setup_error(error: BaseException, endpoint: str) -> Exception:
    match getattr(error, "status_code", None):
        case 401:
            return ConfigurationError(
                f"the account at {endpoint} refuses the credentials (401): check CROSSFEED_COSMOS_KEY"
            )
        case 403:
            return ConfigurationError(
                f"the account at {endpoint} forbids access (403):"
                " check its firewall and the role that this identity has"
            )
        case None:
            reason = type(getattr(error, "inner_exception", None) or error).__name__
            return ConfigurationError(f"no Cosmos DB answers at {endpoint} ({reason}): check CROSSFEED_COSMOS_ENDPOINT")
        case _:
            return read_error(error, f"opening the account at {endpoint}")


def _partition_key(mapping: EntityMapping[Any]) -> PartitionKey:
    if len(mapping.paths) == 1:
        return PartitionKey(path=mapping.paths[0])
    return PartitionKey(path=list(mapping.paths), kind="MultiHash")


def _unique_key_policy(mapping: EntityMapping[Any]) -> dict[str, Any] | None:
    if not mapping.unique_keys:
        return None
    return {"uniqueKeys": [{"paths": [path]} for path in mapping.unique_keys]}
