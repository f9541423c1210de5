"""Speaks HTTP with clients, however they behave: addresses, TLS, connections, requests and their answers."""
