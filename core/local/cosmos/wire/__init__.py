"""Speaks HTTP with clients, whoever they are and however they behave: connections, TLS, signatures, requests."""
