"""Parsing in processes of their own, for texts that would hold up the event loop."""
