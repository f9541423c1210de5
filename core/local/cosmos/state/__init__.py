"""Holds what an account stores: databases, containers, physical partitions with their documents and change logs."""
