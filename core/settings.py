"""All settings of all processes, from the environment (`CROSSFEED_…`), named in one place."""

from __future__ import annotations

import importlib
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.errors import ConfigurationError, MappingError
from core.mapping import EntityMapping
from core.mappings import Mappings
from core.phases import Phase

DAY = 24 * 3600


def _phase(value: object) -> object:
    return Phase.named(value) if isinstance(value, str) else value


class Settings(BaseSettings):
    """Every setting; the environment variable is `CROSSFEED_` plus the name in capitals."""

    model_config = SettingsConfigDict(env_prefix="CROSSFEED_", extra="ignore", frozen=True)

    postgres_dsn: SecretStr | None = Field(None, description="libpq URI, postgresql://user:password@host:5432/database")
    postgres_auth: Literal["password", "entra"] = Field(
        "password", description="entra: a Microsoft Entra token is the password (Azure Database for PostgreSQL)"
    )
    postgres_pool_size: int = Field(10, ge=1, le=200, description="connections per process")

    cosmos_endpoint: str | None = Field(None, description="https://<account>.documents.azure.com:443/")
    cosmos_key: SecretStr | None = Field(None, description="account key; without one Microsoft Entra ID is used")
    cosmos_database: str = Field("crossfeed", min_length=1, description="database of the mapped containers")
    cosmos_use_proxy_settings: bool = Field(
        default=False, description="honour proxy variables and netrc; about halves the client's speed"
    )

    mappings: str | None = Field(None, description="package.module:attribute, a list of EntityMapping")
    phase: Annotated[Phase | None, BeforeValidator(_phase)] = Field(
        None, description="pin: refuse to write if the recorded phase is another"
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
    http_host: str = Field("127.0.0.1", description="address of /livez, /readyz and /metrics")
    http_port: int | None = Field(None, ge=0, le=65535, description="port of them; not served without one; 0: any")
    mirror_page_size: int = Field(100, ge=1, le=1000, description="documents per change feed page")
    mirror_poll_ms: int = Field(100, ge=1, description="pause between two polls of an idle feed range")

    log_level: Literal["debug", "info", "warning", "error"] = "info"
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
            problems = "; ".join(
                f"CROSSFEED_{'_'.join(map(str, item['loc'])).upper()}: {item['msg']}"
                for item in error.errors(include_input=False, include_url=False)
            )
            msg = f"settings: {problems}"
            raise ConfigurationError(msg) from None

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
        module_name, _, attribute = self.mappings.partition(":")
        if not module_name or not attribute:
            msg = f"CROSSFEED_MAPPINGS={self.mappings!r} is not of the form package.module:attribute"
            raise ConfigurationError(msg)
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            msg = f"CROSSFEED_MAPPINGS={self.mappings!r}: cannot import {module_name}: {error}"
            raise ConfigurationError(msg) from error
        found = getattr(module, attribute, None)
        if isinstance(found, Mappings):
            return found
        if not isinstance(found, list | tuple) or not all(isinstance(item, EntityMapping) for item in found):
            what = "has no such attribute" if found is None else "is not a list of EntityMapping"
            msg = f"CROSSFEED_MAPPINGS={self.mappings!r}: {module_name}.{attribute} {what}"
            raise MappingError(msg)
        return Mappings(found)
