"""Cosmos SQL: grammar, syntax tree, evaluation and query plans."""
