"""Clients that send bytes as regular clients never do. Only Python's standard library is used."""
