"""Stands in for a package of the SDK's makers that is not published: only what their Cosmos DB tests import of it."""
