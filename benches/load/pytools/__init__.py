"""Hand-made clients that send what regular clients do not. Python's standard library only."""
