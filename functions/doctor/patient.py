"""What is examined, as far as it could be opened: each question takes from it what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from core.cosmos.client import CosmosStore
    from core.mappings import Mappings
    from core.phases import PhaseRow
    from core.postgres.rights import Process
    from core.settings import Settings


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What there is before anything is opened.

    Args:
        settings: with defaults in place of what does not fit.
        wrong: what does not fit, by the name of its variable.
        environment: all variables of the process.
        app: the folder of the Functions app; None: there is none.
        process: whose rights are asked for; None: of whichever process the role has them.

    """

    settings: Settings
    wrong: Mapping[str, str]
    environment: Mapping[str, str]
    app: Path | None = None
    process: Process | None = None


@dataclass(frozen=True, slots=True)
class Database:
    """Postgres, connected; `mappings` are None where CROSSFEED_MAPPINGS names none."""

    settings: Settings
    engine: AsyncEngine
    mappings: Mappings | None
    process: Process | None


@dataclass(frozen=True, slots=True)
class Installed(Database):
    """Postgres with the schema of this version, and what it says of the phase."""

    phase: PhaseRow


@dataclass(frozen=True, slots=True)
class Account:
    """Cosmos DB, connected."""

    settings: Settings
    store: CosmosStore
    mappings: Mappings | None
    uses_functions: bool


@dataclass(frozen=True, slots=True)
class Both:
    """Both stores, for what takes both to know."""

    installed: Installed
    store: CosmosStore
