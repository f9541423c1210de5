"""An embedded Azure Cosmos DB (NoSQL API) that speaks the true REST protocol on loopback."""

from core.local.cosmos.auth import EMULATOR_KEY
from core.local.cosmos.clock import Clock
from core.local.cosmos.server import CosmosServer

__all__ = ["EMULATOR_KEY", "Clock", "CosmosServer"]
