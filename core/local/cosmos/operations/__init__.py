"""Answers each operation of the protocol: signatures, routes, documents, batches, patches, queries, feeds, offers."""
