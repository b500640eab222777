"""Builds connections of both sides."""
