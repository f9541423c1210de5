"""The worked example: Mystira, interactive stories for children, which moves from Cosmos DB to Postgres."""
