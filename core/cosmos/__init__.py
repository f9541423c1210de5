"""Everything that talks to Azure Cosmos DB, through its official client."""
