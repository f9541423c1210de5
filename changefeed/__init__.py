"""Cosmos DB -> Postgres: the change feed is read, mirrored and acknowledged, page by page."""
