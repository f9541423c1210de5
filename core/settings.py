"""All settings of all processes, from the environment (`CROSSFEED_…`), named in one place."""

from __future__ import annotations

import importlib
import os
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import ConfigurationError, MappingError
from core.handlers import Handlers
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.phases import Phase

DAY = 24 * 3600


def _phase(value: object) -> object:
    return Phase.named(value) if isinstance(value, str) else value


class Settings(BaseSettings):
    """Every setting; the environment variable is `CROSSFEED_` plus the name in capitals."""

    model_config = SettingsConfigDict(env_prefix="CROSSFEED_", extra="ignore", frozen=True, populate_by_name=True)

    postgres_dsn: SecretStr | None = Field(None, description="libpq URI, postgresql://user:password@host:5432/database")
    postgres_auth: Literal["password", "entra"] = Field(
        "password", description="entra: a Microsoft Entra token is the password (Azure Database for PostgreSQL)"
    )
    postgres_pool_size: int = Field(10, ge=1, le=200, description="connections per process")

    cosmos_endpoint: str | None = Field(
        None,
        validation_alias=AliasChoices("CROSSFEED_COSMOS_ENDPOINT", "COSMOS__accountEndpoint"),
        description="https://<account>.documents.azure.com:443/; Azure Functions' own name for it will do",
    )
    cosmos_key: SecretStr | None = Field(None, description="account key; without one Microsoft Entra ID is used")
    cosmos_database: str = Field("crossfeed", min_length=1, description="database of the mapped containers")
    cosmos_use_proxy_settings: bool = Field(
        default=False, description="honour proxy variables and netrc; about halves the client's speed"
    )

    mappings: str | None = Field(None, description="package.module:attribute, a list of EntityMapping")
    consumers: str | None = Field(None, description="package.module:attribute, the Handlers of domain events")
    consumer_attempts: int = Field(8, ge=1, description="failures of an event at a handler before it is a dead letter")
    consumer_retry_first_s: float = Field(1.0, gt=0, description="seconds a failed event is parked the first time")
    consumer_retry_max_s: float = Field(300.0, gt=0, description="seconds a failed event is parked at most")
    consumer_timeout_s: float = Field(60.0, gt=0, le=600, description="seconds after which a handler has failed")
    consumer_keep_s: float = Field(
        7 * DAY, ge=0, description="seconds an event that was handled is remembered by its id; see changefeed.inbox"
    )
    phase: Annotated[Phase | None, BeforeValidator(_phase)] = Field(
        None, description="pin: refuse to write if the recorded phase is another"
    )
    write_lease_s: float = Field(
        10.0, ge=0.2, le=600, description="seconds a silent process may go on writing to Cosmos DB while it is primary"
    )
    write_poll_ms: int = Field(200, ge=1, description="pause between two looks of such a writer at the phase")
    transact_deadline_s: float = Field(30.0, gt=0, description="seconds after which transact begins no new attempt")
    shadow_read_share: float = Field(
        0.0, ge=0, le=1, description="share of reads by id that are compared with the other store, off the hot path"
    )
    erase_key: SecretStr | None = Field(
        None, description="key of the hash that stands for an erased document's partition key in its tombstone"
    )
    tombstone_ttl_s: int = Field(30 * DAY, ge=3600, description="seconds a tombstone lives in Cosmos DB")

    relay_page_size: int = Field(2000, ge=1, le=10_000, description="outbox messages per page")
    relay_concurrency: int = Field(32, ge=1, le=512, description="concurrent writes to Cosmos DB")
    relay_poll_min_ms: int = Field(2, ge=1, description="pause between two polls while there is work")
    relay_poll_max_ms: int = Field(100, ge=1, description="pause between two polls when idle")
    relay_lease_s: float = Field(10.0, ge=0.2, le=600, description="seconds a silent relay keeps its slots")
    relay_attempts: int = Field(8, ge=1, description="attempts at a document before it becomes a dead letter")
    relay_retry_first_s: float = Field(1.0, gt=0, description="seconds a refused document is parked the first time")
    relay_retry_max_s: float = Field(300.0, gt=0, description="seconds a refused document is parked at most")
    relay_ru_per_second: float | None = Field(None, gt=0, description="request units a second that a relay may use")
    relay_max_lag_s: float = Field(60.0, gt=0, description="age of an unsent message at which readiness fails")
    outbox_partition_size: int = Field(1_000_000, ge=1000, description="messages per partition of the outbox")
    outbox_keep_s: float = Field(DAY, ge=0, description="seconds that delivered messages are kept for a replay")
    events_container: str = Field("crossfeed-events", min_length=1, description="container of domain events")
    control_container: str = Field("crossfeed-control", min_length=1, description="container of the relays' markers")
    http_host: str = Field("127.0.0.1", description="address of the status page, /livez, /readyz and /metrics")
    http_port: int | None = Field(None, ge=0, le=65535, description="port of them; not served without one; 0: any")
    admin_token: SecretStr | None = Field(
        None,
        min_length=16,
        description="what the status page asks of whoever acts, and on an address that is not this machine's, reads",
    )
    admin_on_public_address: bool = Field(
        default=False, description="let the status page act on an address that is not this machine's alone"
    )
    canary_every_s: float = Field(
        30.0, ge=0, description="seconds between two canaries of a slot or a feed range; 0: none are written"
    )
    mirror_page_size: int = Field(100, ge=1, le=1000, description="documents per change feed page")
    mirror_park_attempts: int = Field(
        20, ge=1, description="attempts at a document that another one's state keeps out, before it is a dead letter"
    )
    mirror_park_first_s: float = Field(0.5, gt=0, description="seconds such a document is parked the first time")
    mirror_park_max_s: float = Field(300.0, gt=0, description="seconds such a document is parked at most")
    mirror_poll_ms: int = Field(100, ge=1, description="pause between two polls of an idle feed range")
    mirror_all_versions: bool = Field(
        default=False, description="follow the feed of all versions too, which shows hard deletes, where there is one"
    )
    mirror_lease_s: float = Field(10.0, ge=0.2, le=600, description="seconds a silent processor keeps its feed ranges")
    mirror_max_lag_s: float = Field(60.0, gt=0, description="age of an unmirrored change at which readiness fails")
    mirror_reconcile: bool = Field(
        default=True, description="let the self-hosted mirror do the reconcile rounds too, which find hard deletes"
    )
    reconcile_every_s: float = Field(3600.0, gt=0, description="seconds between two rounds of the reconcile timer")
    reconcile_lag_s: float = Field(
        30.0,
        ge=0,
        description="seconds in which what is under way arrives; between the two reads that believe a delete",
    )
    reconcile_page_size: int = Field(1000, ge=1, le=10_000, description="documents per page of a reconcile pass")
    reconcile_pause_ms: int = Field(5, ge=0, description="pause of a reconcile pass after each page")
    reconcile_ru_per_second: float | None = Field(
        1000.0, gt=0, description="request units a second that a reconcile pass may use"
    )
    reconcile_max_removed_share: float = Field(
        0.1, ge=0, le=1, description="share of a container's rows above which a reconcile pass removes none"
    )
    reconcile_lease_s: float = Field(60.0, ge=1, le=3600, description="seconds a silent reconcile pass keeps its turn")
    backfill_page_size: int = Field(500, ge=1, le=10_000, description="documents or rows per piece of a backfill")
    backfill_ru_per_second: float | None = Field(
        1000.0, gt=0, description="request units a second that a backfill may use"
    )
    backfill_max_lag_s: float = Field(
        10.0, gt=0, description="lag of the live path, in seconds, above which a backfill lets it pass"
    )
    backfill_lease_s: float = Field(60.0, ge=1, le=3600, description="seconds a silent backfill keeps its turn")
    cache_url: SecretStr | None = Field(
        None,
        description="the read cache: rediss://user:password@host:6380/0 of any Redis-compatible server; none: no cache",
    )
    cache_prefix: str = Field(
        "crossfeed", min_length=1, description="what its keys begin with: another one per installation on one server"
    )
    cache_ttl_s: float = Field(60.0, gt=0, le=DAY, description="seconds an entry lives, give or take a tenth")
    cache_negative_ttl_s: float = Field(
        10.0, gt=0, le=DAY, description="seconds it is remembered that there is nothing, give or take a tenth"
    )
    cache_timeout_ms: int = Field(50, ge=1, le=10_000, description="how long an answer of the cache is waited for")
    cache_wait_ms: int = Field(
        1000, ge=0, le=60_000, description="how long a read waits for another reader's load of the same"
    )
    cache_load_s: float = Field(5.0, gt=0, le=60, description="seconds that a load may take whose result is kept")
    cache_remembered: int = Field(
        20_000, ge=1, description="entities a process remembers to have seen, so that it is shown none that is older"
    )
    functions_pool_size: int = Field(
        4, ge=1, le=50, description="Postgres connections per Azure Functions worker process"
    )
    functions_max_lag_s: float = Field(
        300.0, gt=0, description="how long a change may wait for its trigger, in seconds, until its health says so"
    )
    lease_container: str = Field(
        "crossfeed-leases", min_length=1, description="container of the triggers' leases, with partition key /id"
    )
    canary_schedule: str = Field("0 * * * * *", description="when the triggers' canaries are written, NCRONTAB")
    parked_schedule: str = Field("*/15 * * * * *", description="when what is parked is tried again, NCRONTAB")
    reconcile_schedule: str = Field("30 */5 * * * *", description="when hard deletes are looked for, NCRONTAB")
    validate_schedule: str = Field("0 40 3 * * *", description="when both stores are compared, NCRONTAB")
    retention_schedule: str = Field("0 10 * * * *", description="when what the mirror leaves is purged, NCRONTAB")

    plaintext_hosts: str = Field(
        "", description="hosts, separated by commas, that may be spoken to without TLS; this machine always may"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged at least")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal")

    @classmethod
    def load(cls, **overrides: Any) -> Self:  # noqa: ANN401 - pydantic validates
        """Read the environment.

        Raises:
            ConfigurationError: a value does not fit; the message names the variable, never the value.

        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            msg = f"settings: {'; '.join(f'{name}: {why}' for name, why in _problems(error).items())}"
            raise ConfigurationError(msg) from None

    @classmethod
    def load_what_fits(cls) -> tuple[Self, dict[str, str]]:
        """Read the environment; return it with defaults for what does not fit, and what is wrong by its variable."""
        try:
            return cls(), {}
        except ValidationError as error:
            # One that was read is known by its alias, if it has one; all others by their name.
            wrong = {str(item["loc"][0]).lower().removeprefix("crossfeed_") for item in error.errors() if item["loc"]}
            return cls(**{name: cls.model_fields[name].get_default() for name in wrong}), _problems(error)

    def require_postgres(self) -> str:
        """Return the DSN.

        Raises:
            ConfigurationError: it is not set.

        """
        if self.postgres_dsn is None:
            msg = "CROSSFEED_POSTGRES_DSN is not set; it is a URI like postgresql://user:password@host:5432/database"
            raise ConfigurationError(msg)
        return self.postgres_dsn.get_secret_value()

    def require_cosmos(self) -> str:
        """Return the endpoint.

        Raises:
            ConfigurationError: it is not set.

        """
        if not self.cosmos_endpoint:
            msg = "CROSSFEED_COSMOS_ENDPOINT is not set; it is a URI like https://<account>.documents.azure.com:443/"
            raise ConfigurationError(msg)
        return self.cosmos_endpoint

    def load_mappings(self) -> Mappings:
        """Import what CROSSFEED_MAPPINGS names.

        Raises:
            ConfigurationError: not set, no such module or attribute, or not a list of EntityMapping.

        """
        if not self.mappings:
            msg = "CROSSFEED_MAPPINGS is not set; it names your mappings as package.module:attribute"
            raise ConfigurationError(msg)
        found, where = _imported("CROSSFEED_MAPPINGS", self.mappings)
        if isinstance(found, Mappings):
            return found
        if not isinstance(found, list | tuple) or not all(isinstance(item, EntityMapping) for item in found):
            what = "has no such attribute" if found is None else "is not a list of EntityMapping"
            raise MappingError(f"{where} {what}")
        return Mappings(found)

    def load_consumers(self) -> Handlers | None:
        """Import what CROSSFEED_CONSUMERS names, None where it is not set: then nobody consumes domain events here.

        Raises:
            ConfigurationError: no such module or attribute, or no Handlers, or none of them was registered.

        """
        if not self.consumers:
            return None
        found, where = _imported("CROSSFEED_CONSUMERS", self.consumers)
        if not isinstance(found, Handlers) or not list(found):
            what = "has no such attribute" if found is None else "is no Handlers with a handler registered"
            raise ConfigurationError(f"{where} {what}")
        return found


def environment() -> dict[str, str]:
    """Return all variables of this process, for whoever looks at what is no setting of ours, or nobody's."""
    return dict(os.environ)


def _problems(error: ValidationError) -> dict[str, str]:
    """Say what does not fit, by the name of its variable, without its value."""
    return {
        f"CROSSFEED_{'_'.join(map(str, item['loc'])).upper().removeprefix('CROSSFEED_')}": item["msg"]
        for item in error.errors(include_input=False, include_url=False)
    }


def _imported(variable: str, named: str) -> tuple[object, str]:
    """Import what a variable names; return it, None if it is not there, and how to begin a message about it."""
    module_name, _, attribute = named.partition(":")
    if not module_name or not attribute:
        msg = f"{variable}={named!r} is not of the form package.module:attribute"
        raise ConfigurationError(msg)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        msg = f"{variable}={named!r}: cannot import {module_name}: {error}"
        raise ConfigurationError(msg) from error
    return getattr(module, attribute, None), f"{variable}={named!r}: {module_name}.{attribute}"
