"""Lists what no client should say, startup packets good and bad, and walsenders."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.clients.sessions.steps import END, Byte, Played, Until, Z
from tests.support.raw import (
    SYNC,
    TERMINATE,
    bind,
    execute,
    extended,
    function_call,
    message,
    parse,
    query,
    startup,
)

# A session a line.
# fmt: off

def violations() -> Iterator[Played]:
    """Gives what no client should say; the answer is PostgreSQL's."""
    before = query("SELECT 1")
    said = {
        "unknown message": message(b"!"),
        "unknown message with a body": message(b"z", b"x" * 100) + query("SELECT 2"),
        "password out of place": message(b"p", b"secret\0"),
        "backend's message": message(b"Z", b"I"),
        "length 0": b"Q\0\0\0\0",
        "length 3": b"S\0\0\0\3",
        "negative length": b"Q\xff\xff\xff\xff" + b"x" * 50,
        "a length no message can have": b"Q\x7f\xff\xff\xff" + b"x" * 50,
        "a long Sync": message(b"S", b"x" * 20000),
        "bytes behind Terminate": TERMINATE + query("SELECT 2"),
        "text after the handshake": b"GET / HTTP/1.1\r\n\r\n",
    }
    for name, sent in said.items():
        yield Played(f"violation: {name}", (sent, END))
        yield Played(f"violation, behind a query: {name}", (before + extended("SELECT 2") + SYNC + sent, END))
    answered = {
        "Query without an end": message(b"Q", b"SELECT 1"),
        "Query with more behind its end": message(b"Q", b"SELECT 1\0SELECT 2\0"),
        "empty Query": message(b"Q"),
        "empty Parse": message(b"P") + SYNC,
        "Parse cut off": message(b"P", b"s\0SELECT 1\0\0\5\0\0") + SYNC,
        "empty Bind": message(b"B") + SYNC,
        "Bind cut off": message(b"B", b"\0\0\0\0\0\3\0\0\0\1") + SYNC,
        "Bind with a negative length": message(b"B", b"\0\0\0\0\0\1\xff\xff\xff\xf0\0\0") + SYNC,
        "empty Describe": message(b"D") + SYNC,
        "empty Execute": message(b"E") + SYNC,
        "Execute with a negative limit": parse("SELECT 1") + bind() + execute("", -1) + SYNC,
        "empty Close": message(b"C") + SYNC,
        "Sync with a body": message(b"S", b"abc"),
        "a name without an end": message(b"D", b"Sname") + SYNC,
    }
    for name, sent in answered.items():
        yield Played(f"content: {name}", (sent, query("SELECT 'after'"), TERMINATE, END))


def startups() -> Iterator[Played]:
    """Gives startup packets, good and bad."""
    who = {"user": "app_user", "database": "app"}
    good = {
        "nothing but a user": {"user": "postgres"},
        "options": who | {"options": "-c work_mem=3MB -c search_path=played"},
        "bad options": who | {"options": "-c nothing_there=1 -z"},
        "an own setting": who | {"my.own": "value"},
        "a name": who | {"application_name": "told \u00e4 name"},
        "an encoding": who | {"client_encoding": "LATIN1"},
        "a bad encoding": who | {"client_encoding": "KLINGON"},
        "a style": who | {"DateStyle": "SQL, DMY", "TimeZone": "UTC"},
        "an unknown setting": who | {"not_a_setting": "1"},
        "no such database": who | {"database": "nowhere"},
        "no such user": who | {"user": "nobody_of_that_name"},
        "an empty user": who | {"user": ""},
        "a read-only default": who | {"default_transaction_read_only": "on"},
        "serializable, deferrable": who | {"options": "-c default_transaction_isolation=serializable -c default_transaction_deferrable=on"},
        "a schema of one's own": who | {"search_path": "played"},
        "a timeout": who | {"options": "-c statement_timeout=5000 -c lock_timeout=1000"},
        "debug": who | {"client_min_messages": "debug1"},
        "extra float digits": who | {"extra_float_digits": "0"},
        "replication is false": who | {"replication": "false"},
        "replication is nonsense": who | {"replication": "perhaps"},
    }
    words = query("SELECT current_user, current_setting('application_name')") + query("SHOW search_path") + query("SHOW work_mem") + TERMINATE
    for name, parameters in good.items():
        yield Played(f"startup: {name}", (startup(parameters), Until(b"ZE"), words, END), raw=True)
    v = {name: (3 << 16) + minor for name, minor in (("3.2", 2), ("3.1", 1), ("3.9999", 9999))}
    for name, number in v.items():
        yield Played(f"startup: protocol {name}", (startup(who, number), Until(b"ZE"), words, END), raw=True)
    yield Played("startup: unknown protocol options", (startup(who | {"_pq_.nothing": "1", "_pq_.other": "x"}), Until(b"ZE"), words, END), raw=True)
    ssl = struct.pack("!II", 8, 80877103)
    yield Played("startup: SSL, then in clear", (ssl, Byte(), startup(who), Z(), TERMINATE, END), raw=True)
    yield Played("startup: the longest", (startup(who | {"application_name": "x" * 9950}), Z(), words, END), raw=True)
    yield Played("startup: SSL with a body", (struct.pack("!III", 12, 80877103, 0), Byte(), startup(who), Z(), TERMINATE, END), raw=True)
    yield Played("startup: SSL twice", (ssl, Byte(), ssl, END), raw=True)
    bad = {
        "no user": startup({"database": "app"}),
        "no terminator": struct.pack("!II", 12, 196608) + b"user",
        "no value": struct.pack("!II", 14, 196608) + b"user\0\0",
        "protocol 4": struct.pack("!II", 9, 4 << 16) + b"\0",
        "too short": struct.pack("!I", 3),
        "too long": struct.pack("!I", 10005),
        "HTTP": b"GET / HTTP/1.1\r\n\r\n",
        "cancel of nobody": struct.pack("!IIII", 16, 80877102, 4711, 4711),
        "cancel too short": struct.pack("!II", 8, 80877102),
    }
    for name, sent in bad.items():
        yield Played(f"startup: {name}", (sent, END), raw=True)


def replication() -> Iterator[Played]:
    """Gives connections of walsenders."""
    logical, physical = {"replication": "database"}, {"replication": "true"}
    for name, parameters in (("logical", logical), ("physical", physical)):
        yield Played(f"replication, {name}: settings", (query("SHOW wal_level"), Z(), query("SHOW nothing_there"), Z()), parameters, "postgres")
        yield Played(f"replication, {name}: syntax", (query("IDENTIFY_SYSTEMS"), Z(), query("SHOW work_mem"), Z()), parameters, "postgres")
        yield Played(f"replication, {name}: extended", (extended("SELECT 1") + SYNC, Z(), query("SHOW work_mem"), Z()), parameters, "postgres")
        yield Played(f"replication, {name}: function", (function_call(177, ["1", "2"]), Z(), query("SHOW work_mem"), Z()), parameters, "postgres")
        yield Played(f"replication, {name}: no such slot", (query('START_REPLICATION SLOT "none" PHYSICAL 0/0'), Z(), query('DROP_REPLICATION_SLOT "none"'), Z()), parameters, "postgres")
        yield Played(f"replication, {name}: timeline", (query("TIMELINE_HISTORY 77"), Z()), parameters, "postgres")
    yield Played("replication, logical: SQL", (query("SELECT 1; SELECT 2"), Z(), query("SELECT 1/0"), Z(), query("BEGIN"), Z(), query("COMMIT"), Z()), logical, "postgres")
    yield Played("replication, logical: RESET ALL", (query("RESET ALL"), Z(), query("SELECT 1"), Z()), logical, "postgres")
    yield Played("replication, physical: SQL", (query("SELECT 1"), Z(), query("SHOW work_mem"), Z()), physical, "postgres")
    yield Played("replication: not allowed", (startup({"user": "app_user", "database": "app"} | logical), END), raw=True)
