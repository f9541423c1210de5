"""Answers each operation of the protocol: routes, documents, batches, patches, queries, the change feed, throughput."""
