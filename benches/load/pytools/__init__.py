"""Clients that send invalid or hostile bytes. They need only Python's standard library."""
