"""Clients by hand, for what no proper client does. Python's standard library only."""
