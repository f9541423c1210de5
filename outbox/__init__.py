"""Postgres to Cosmos DB: the log reader and the relay."""
