"""Runs the sqitch project of secretproxy.sql on asyncpg: install, verify, revert, and the key file.

May import asyncpg; must never print, and never let a key or a secret value into an exception's text.
"""

from __future__ import annotations
