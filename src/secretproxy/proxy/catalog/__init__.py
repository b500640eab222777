"""Reads from a database's catalog which of its objects lead to secret functions."""
