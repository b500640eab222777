"""Accesses counted: by secret, user, hour and outcome, first uses, bursts, two spans or applications side by side.

A count reads the rows of its time once, several processes at a time where the server lets them, and joins outcomes by
hashing: looking them up one by one takes minutes for a month. Functions take a connection and a Filter and give rows;
they print nothing. May import asyncpg."""

from __future__ import annotations

from secretproxy.audit.counting.accesses import LOOKED_UP, Accesses, Table, fetch_counted, looked_at, settle, stretch
from secretproxy.audit.counting.comparison import KEYS, compare
from secretproxy.audit.counting.kept import SUMS, unlike
from secretproxy.audit.counting.summary import Answers, stats
from secretproxy.audit.counting.windows import bursts

__all__ = [
    "KEYS", "LOOKED_UP", "SUMS", "Accesses", "Answers", "Table", "bursts", "compare", "fetch_counted", "looked_at",
    "settle", "stats", "stretch", "unlike",
]  # fmt: skip
