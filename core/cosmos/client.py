"""Opens Cosmos DB with the official asynchronous client, set up so that no write is ever repeated behind our back."""

from __future__ import annotations

import base64
import binascii
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from azure.core.pipeline.transport import AioHttpTransport
from azure.cosmos.aio import CosmosClient

from core.cosmos.containers import OwnContainers, create_containers, problems_of, problems_of_own
from core.cosmos.failures import DRIVER_ERRORS, NOT_FOUND, CosmosUnavailableError, read_error
from core.errors import ConfigurationError
from core.transport import refuse_plaintext

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from azure.core.credentials_async import AsyncTokenCredential
    from azure.cosmos.aio import ContainerProxy

    from core.cosmos.containers import OwnContainer
    from core.mapping import EntityMapping
    from core.settings import Settings

CONNECT_TIMEOUT_S: Final = 5
READ_TIMEOUT_S: Final = 10

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
        own: Crossfeed's own containers in it.

    """

    def __init__(self, client: CosmosClient, endpoint: str, database: str, own: OwnContainers) -> None:
        self.own = own
        self.client = client
        self.endpoint = endpoint
        self.database = database
        self.reached: set[tuple[str, int]] = set()
        """Containers and epochs of which this client's session has seen the opening."""
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

        Raises:
            StoreUnavailableError: there is none, or Cosmos DB did not answer.

        """
        return await self.existing_container_named(mapping.container, f" of mapping {mapping.name}")

    async def existing_container_named(self, name: str, whose: str = "") -> ContainerProxy:
        """Return a container by its name, having made sure once that there is one.

        The client reads a container's properties with the first request for a document, and the 404 that it gets for
        a container that is missing looks like that of a missing document.

        Args:
            name: the container's name.
            whose: what it is for, for the message.

        Raises:
            StoreUnavailableError: there is none, or Cosmos DB did not answer.

        """
        container = self.container_named(name)
        if name not in self._found:
            try:
                await container.read()
            except DRIVER_ERRORS as error:
                if _is_missing(error):
                    msg = f"container {name!r}{whose} does not exist"
                    raise CosmosUnavailableError(msg) from error
                raise read_error(error, f"opening container {name!r}") from error
            self._found.add(name)
        return container

    async def ping(self) -> None:
        """Make sure that Cosmos DB answers, by the cheapest request there is.

        Raises:
            StoreUnavailableError: it does not.

        """
        try:
            await self._database.read()
        except DRIVER_ERRORS as error:
            raise read_error(error, f"reading database {self.database!r}") from error

    async def check(self, mappings: Iterable[EntityMapping[Any]], own: Iterable[OwnContainer] = ()) -> None:
        """Make sure that the account, the database and every container are as Crossfeed needs them.

        Args:
            mappings: whose containers.
            own: those of Crossfeed's own containers that are needed.

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
        problems = [
            *[problem for mapping in mappings for problem in problems_of(mapping, await self.look(mapping.container))],
            *[problem for container in own for problem in problems_of_own(container, await self.look(container.name))],
        ]
        if problems:
            msg = f"Cosmos DB database {self.database!r}: " + "; ".join(problems)
            raise ConfigurationError(msg)

    async def provision(
        self, mappings: Iterable[EntityMapping[Any]], throughput: int | None = None, *, leases: bool = False
    ) -> None:
        """Create the database and the containers that are not there, Crossfeed's own among them.

        Args:
            mappings: whose containers.
            throughput: RU/s of each mapped container that is created, None for the account's default.
            leases: create the container of the triggers' leases too.

        Raises:
            StoreUnavailableError: Cosmos DB did not do it.

        """
        try:
            await self.client.create_database_if_not_exists(self.database)
            own = [*self.own, self.own.leases] if leases else self.own
            await create_containers(self._database, mappings, own, throughput)
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

    async def look(self, container: str) -> Mapping[str, Any] | None:
        """Return the properties of a container, None where there is none; raises what `check` raises."""
        try:
            return await self.container_named(container).read()
        except DRIVER_ERRORS as error:
            if not _is_missing(error):
                raise _setup_error(error, self.endpoint) from error
            return None


@asynccontextmanager
async def open_cosmos(
    settings: Settings, token_credential: AsyncTokenCredential | None = None
) -> AsyncIterator[CosmosStore]:
    """Connect to the account that the settings name.

    async with open_cosmos(settings) as store:
        await store.check(mappings)

    Without a key Microsoft Entra ID is used; the client asks for another token before one ends.

    Args:
        settings: of the process.
        token_credential: who gives the tokens, instead of DefaultAzureCredential; stays open.

    Raises:
        ConfigurationError: no endpoint, one elsewhere without TLS, one where no Cosmos DB answers, or credentials that
            it refuses.

    """
    endpoint = _checked_endpoint(settings)
    async with AsyncExitStack() as stack:
        credential: str | AsyncTokenCredential
        if settings.cosmos_key is not None:
            credential = _checked_key(settings.cosmos_key.get_secret_value())
        elif token_credential is not None:
            credential = token_credential
        else:
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - costs 0.3 s, needed only with Entra

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
        yield CosmosStore(client, endpoint, settings.cosmos_database, OwnContainers.of(settings))


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
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc or parts.query:
        # Not shown: who pastes a whole connection string has pasted the key.
        msg = "CROSSFEED_COSMOS_ENDPOINT is no address like https://<account>.documents.azure.com:443/"
        raise ConfigurationError(msg)
    refuse_plaintext("CROSSFEED_COSMOS_ENDPOINT", endpoint, "https", settings)
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
