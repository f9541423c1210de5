"""An embedded Azure Cosmos DB (NoSQL API) that speaks the true REST protocol on loopback.

Follow one request:

    wire         bytes to requests, answers to bytes: connections, TLS
    faults       what is to go wrong with this one, if anything
    operations   whether it may, and what it asks for: documents, batches, patches, queries, change feed, throughput
    sql          what a query means
    state        the account: containers, physical partitions, change logs
    storage      the file that keeps it, if there is one
"""

from core.local.cosmos.clock import Clock
from core.local.cosmos.operations.auth import EMULATOR_KEY
from core.local.cosmos.server import CosmosServer

__all__ = ["EMULATOR_KEY", "Clock", "CosmosServer"]
