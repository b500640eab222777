"""Checks that what is in C makes digests, reads testimonies and writes lines of the log as what is in Python does, byte
for byte.

Where nothing was compiled, the same tests compare the ways in Python with each other."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import subprocess
import sys
import uuid
from collections import deque
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secretproxy.audit import rows
from secretproxy.audit.columns import CHAINED, TYPES
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import Lines
from secretproxy.session import quoted
from secretproxy.session.events import Event, Identity
from secretproxy.session.testimony import HmacKey, Keys
from secretproxy.wire import digest, messages
from tests.fuzz.pure import PURE
from tests.unit import playbook as wire
from tests.unit.playbook import GETTER, KEY, OWNER, PID, START
from tests.unit.playbook import quoted as notice

# --- digests ---


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=100))
def test_digests_are_those_of_python(first: bytes, second: bytes, key: bytes) -> None:
    pads, mac = digest.pads(key), hmac.digest(key, first, "sha256")
    others = [
        mac[:-1],
        mac + b"\0",
        b"",
        *(mac[:at] + bytes((mac[at] ^ 1 << at % 8,)) + mac[at + 1 :] for at in range(32)),
    ]
    for sha256, hmac_sha256, is_hmac in (digest.MAKERS, (digest.sha256, digest.hmac_sha256, digest.is_hmac_sha256)):
        assert sha256(first, second) == hashlib.sha256(first + second).digest()
        assert hmac_sha256(*pads, first) == mac
        assert is_hmac(*pads, first, mac) is True
        assert not any(is_hmac(*pads, first, other) for other in others)
        # One that failed leaves the next one as it is.
        with pytest.raises(TypeError):
            sha256(first, None)  # type: ignore[arg-type]
        assert sha256(b"", first) == hashlib.sha256(first).digest()


def test_the_longest_line_has_its_digest() -> None:
    line = bytes(range(256)) * 20_000
    assert digest.MAKERS[0](b"p" * 32, line) == hashlib.sha256(b"p" * 32 + line).digest()


def test_digests_are_made_without_openssl_too() -> None:
    without = (
        "import sys; sys.modules['_hashlib'] = None\n"
        "from secretproxy.wire import digest\n"
        "assert digest.MAKERS[0] is digest.sha256, digest.MAKERS\n"
        "print(digest.MAKERS[0](b'a', b'b').hex())"
    )
    told = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True, check=True).stdout
    assert told.strip() == hashlib.sha256(b"ab").hexdigest()


def test_no_digest_is_made_past_a_fips_that_is_asked_for(tmp_path: Path) -> None:
    if digest.MAKERS[0] is digest.sha256:
        pytest.skip("nothing was compiled")
    settings_of_openssl = tmp_path / "openssl.cnf"
    for asked in ("yes", "no"):
        settings_of_openssl.write_text(
            f"openssl_conf = all\n[all]\nalg_section = of_all\n[of_all]\ndefault_properties = fips={asked}\n"
        )
        told = subprocess.run(
            [sys.executable, "-c", "import secretproxy.wire._digest"],
            env={**os.environ, "OPENSSL_CONF": str(settings_of_openssl)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (told.returncode == 0) == (asked == "no")
        assert asked == "no" or "ImportError" in told.stderr


def test_no_key_is_shown() -> None:
    assert repr(HmacKey(b"secret")) == "HmacKey(<redacted>)"


# --- testimonies ---

SAID = f"SPX2 1 {PID} {START} {START + 1:016x} {GETTER} {OWNER}  'key' 'app' 'none'"
FORMS = [
    SAID, SAID.replace("  'key'", f" {uuid.UUID(int=7)} 'key'"), SAID.replace("'key'", "''"), SAID.replace("'key'", "'a''b'"),
    SAID.replace("'key'", "E'a\\\\b'"), SAID.replace("'app'", "'\u00e4\U0001f511'"), SAID.replace("'key'", "'a b  c'"), SAID + " ", SAID[:-1],
    SAID.replace("'key'", "'" + "k" * 900 + "'"), SAID.replace("'key'", "'" + "k" * 2000 + "'"), SAID.replace("'key' ", "'key'"),
    SAID.replace(f"{START + 1:016x}", "f" * 16), SAID.replace(f"{START + 1:016x}", f"{START + 1:x}"), SAID.replace("SPX2 1", "SPX2 "), "SPX2 ", "",
    SAID.replace("'key'", "key"), SAID.replace("'none'", "'none' 'more'"), SAID.replace(" 'app'", "  'app'"), SAID.replace("'key' '", "'key'x'"),
]  # fmt: skip


def cut_in_python(message: bytes) -> quoted.Cut | None:
    try:
        return quoted.cut(message)
    except ValueError:
        return None


def is_commonest(found: quoted.Cut | None, message: bytes) -> bool:
    """Tells whether a testimony has no mark, no backslash and no great length, so that C must not leave it."""
    return found is not None and b"''" not in found[0] and b" E'" not in found[0] and len(message) <= 2000


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.sampled_from(FORMS),
    st.lists(st.tuples(st.integers(0, 260), st.sampled_from([*b" 'E\\0fgxX\xc3\xff\0"])), max_size=3),
    st.lists(st.tuples(st.integers(0, 600), st.sampled_from([*b"0fFgG ~\0\xff"])), max_size=1),
    st.integers(0, 40),
)
def test_a_testimony_is_cut_alike(
    form: str, changed: list[tuple[int, int]], changed_digits: list[tuple[int, int]], missing: int
) -> None:
    raw = bytearray(form.encode() + bytes(range(200, 232)))
    for pos, byte in changed:
        if pos < len(raw):
            raw[pos] = byte
    message = bytearray(raw.hex().encode())
    del message[len(message) - (missing if missing < 20 else 0) :]
    for pos, byte in changed_digits:
        if pos < len(message):
            message[pos] = byte
    found, known = quoted.COMMONEST(bytes(message)), cut_in_python(bytes(message))
    assert found is None or found == known
    if quoted.COMMONEST is not quoted.commonest and found is None and raw.startswith(b"SPX2 "):
        assert not is_commonest(known, bytes(message)) or known[3] >> 64 or len(known[0].split(b" ")[4]) != 16  # type: ignore[index]


def test_a_testimony_in_capitals_is_the_same() -> None:
    message = (SAID.encode() + bytes(32)).hex().encode()
    assert quoted.COMMONEST(message.upper()) in (None, quoted.cut(message))


def test_what_is_no_bytes_is_not_cut() -> None:
    if quoted.COMMONEST is not quoted.commonest:
        for wrong in ("text", None, bytearray(30)):
            with pytest.raises(TypeError):
                quoted.COMMONEST(wrong)  # type: ignore[arg-type]


NOTICES = [
    notice(), notice("a'b"), notice("n" * 900), wire.notice("text", "SPX01"), wire.notice("5350583220", "SPX01"), wire.notice("5350583220ab", "00000"),
    notice()[:-1], notice()[:60], notice() * 2, b"", b"\0CSPX01\0M5350583220", wire.notice("hidden \0CSPX01\0M5350583220ff", "00000"),
]  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from(NOTICES),
    st.lists(st.tuples(st.integers(0, 700), st.sampled_from([*b"\0CMS50"])), max_size=2),
    st.integers(0, 12),
    st.integers(0, 9),
)
def test_a_testimony_is_found_alike_in_a_notice(
    notice_of: bytes, changed: list[tuple[int, int]], begin: int, missing: int
) -> None:
    data = bytearray(notice_of)
    for pos, byte in changed:
        if pos < len(data):
            data[pos] = byte
    end = len(data) - min(missing, len(data))
    begin = min(begin, end)
    assert quoted.CUTTERS[1](bytes(data), begin, end) == quoted.heard(bytes(data), begin, end)


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    NAMES,
    NAMES,
    st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=3)), max_size=1),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=1),
)
def test_a_testimony_that_is_as_expected_is_read_alike(
    name: str, other: str, wrong: list[tuple[int, bytes]], changed: list[tuple[int, int]]
) -> None:
    data = bytearray(notice(name))
    expected: list[Any] = [
        f"1 {PID} {START}".encode(),
        GETTER.encode(),
        str(OWNER).encode(),
        b"",
        name,
        b"'app' 'none'",
    ]
    for place, value in wrong:
        if place < len(expected):
            expected[place] = other if place == 4 else value
    for pos, byte in changed:
        if pos < len(data):
            data[pos] = byte
    found = quoted.AGAIN(bytes(data), 5, len(data), *expected)
    assert found == quoted.again(bytes(data), 5, len(data), *expected)
    if not wrong and not changed and name.isalnum() and name.isascii() and quoted.AGAIN is not quoted.again:
        assert found is not None
        assert found[2] == START + 1


def test_what_is_expected_of_a_testimony_is_bytes_and_a_name() -> None:
    if quoted.AGAIN is quoted.again:
        pytest.skip("nothing was compiled")
    for wrong in ((b"", 0, 0), ("", 0, 0, b"", b"", b"", b"", "", b""), (b"", 0, 0, b"", b"", b"", b"", b"", b""),
                  (b"", 0, 0, "", b"", b"", b"", "", b""), (b"", "", 0, b"", b"", b"", b"", "", b"")):  # fmt: skip
        with pytest.raises(TypeError):
            quoted.AGAIN(*wrong)  # type: ignore[call-arg, arg-type]
    assert quoted.AGAIN(b"", -1, 5, b"", b"", b"", b"", "", b"") is None
    assert quoted.AGAIN(notice("k"), 5, 400, b"", b"", b"", b"", "\ud800", b"") is None


def message_of(**said: Any) -> bytes:
    made = notice(**said)
    return made[made.index(b"\0M") + 2 :].partition(b"\0")[0]


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_believed_or_remembered_that_is_not_signed(form: str) -> None:
    keys = Keys({1: KEY})
    message = (form.encode() + bytes(32)).hex().encode()
    for _ in range(2):
        assert keys.read(message) is None
    genuine = message_of(clock=START + 2)
    for _ in range(2):
        said = keys.read(genuine)
        assert said is not None and (said.pid, said.start, said.clock) == (PID, START, START + 2)
        assert (said.function, said.owner, said.names, said.jwt_user) == (GETTER, OWNER, ("key",), None)
        # What is remembered of a signed one vouches for no other.
        assert keys.read(message) is None
        assert keys.read(genuine[:-2] + b"00") is None or genuine.endswith(b"00")


def test_a_key_that_is_replaced_vouches_for_nothing_any_more() -> None:
    keys = Keys({1: KEY})
    genuine = message_of()
    assert keys.read(genuine) is not None
    keys.replace({1: b"o" * 32})
    assert keys.read(genuine) is None
    keys.replace({2: KEY})
    assert keys.read(genuine) is None
    keys.replace({1: KEY, 2: b"o" * 32})
    assert keys.read(genuine) is not None


# --- messages of a client ---


BINDS = [
    wire.bind(), wire.bind([b"1", b"two"], statement="s"), wire.bind([None, b"", b"x" * 200], statement="n" * 63), wire.bind([b"v"]) + wire.SYNC,
    wire.message(b"B", b"p\0s\0" + bytes([0, 1, 0, 1, 0, 2, 0, 0, 0, 1, 65, 255, 255, 255, 255, 0, 0])),
    wire.message(b"B", b"\0\0" + bytes([0, 2, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 65, 0, 0, 0, 0, 0, 0])),
    wire.message(b"B", b"\0\0" + bytes([0, 3, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 65, 0, 0, 0, 0])),
    wire.message(b"B", b"\0\0" + bytes([0, 0, 255, 255, 0, 0])), wire.message(b"B", b"\0\0" + bytes([255, 255, 0, 0])), wire.message(b"B", b"\0\0" + bytes([0, 0, 0, 1, 128, 0, 0, 0])),
]  # fmt: skip


def outcome_of(installed: ModuleType, data: bytes, start: int, end: int) -> list[object]:
    """Tells what a module makes of data as a Bind and as a string, or what it says is wrong."""
    told: list[object] = []
    try:
        found = installed.read_bind(data, start, end)
        told += [found.portal, found.statement, found.formats, [value.reveal() for value in found.values]]
    except Exception as error:
        told.append(type(error).__name__)
    try:
        told += installed.cstring(data, start, end)
    except Exception as error:
        told.append(type(error).__name__)
    return told


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from(BINDS),
    st.lists(st.tuples(st.integers(5, 40), st.sampled_from([0, 1, 2, 3, 65, 127, 128, 255])), max_size=3),
    st.integers(0, 8),
    st.integers(-2, 9),
)
def test_a_bind_is_read_alike(bind: bytes, changed: list[tuple[int, int]], start: int, missing: int) -> None:
    data = bytearray(bind)
    for pos, byte in changed:
        if pos < len(data):
            data[pos] = byte
    end = len(data) - missing
    assert outcome_of(messages, bytes(data), start, end) == outcome_of(PURE.messages, bytes(data), start, end)


def test_what_is_no_bytes_is_not_read() -> None:
    for reader in messages.READERS:
        if reader not in (messages.no_bind, messages.no_cstring):
            for wrong in [("text", 0, 1), (b"a\0", 0), (b"a\0", "0", 1), (b"a\0", 2**70, 2**71)]:
                with pytest.raises((TypeError, OverflowError)):
                    reader(*wrong)  # type: ignore[arg-type,call-arg]
            assert reader(b"ab\0", -1, 3) is None and reader(b"ab\0", 2, 1) is None and reader(b"ab\0", 0, 4) is None


# --- lines ---

MASK = NameMask(20, ("hush[0-9]+",), b"k" * 32)
WHO = [
    Identity(uuid.UUID(int=1), "app", "db", "psql", ipaddress.ip_address("10.0.0.7"), 40_001, True),
    Identity(uuid.UUID(int=2)),
    Identity(uuid.UUID(int=3), "a\tlogin", "d\u00e4b", "back\\slash", None, 0, False),
]
# Few values of each, so that rows of one pattern come again.
EVENTS = st.builds(
    Event,
    st.sampled_from(["access", "access", "access", "attempt", "outcome"]),
    st.sampled_from(WHO),
    st.sampled_from([1, 2, None, 10**12]),
    st.sampled_from([GETTER, GETTER, None, "f\\(x)", "hush1", "", "g" * 21]),
    st.sampled_from(["read", "read", None]),
    st.sampled_from([OWNER, uuid.UUID(int=0), None]),
    st.sampled_from([("key",), ("other",), None, (), (None,), ("",), ("NULL",), ("a,b",), ('q"',), ("t\tab",), ("hush22",), ("b\\s",), ("k", "l")]),
    st.sampled_from([None, None, "pgp"]),
    st.sampled_from([None, None, None, ("v()",)]),
    st.sampled_from(["extended", "extended", "simple", None]),
    st.sampled_from(["0a1b2c", "0a1b2c", "0a1b2c", None, "f\\p"]),
    st.sampled_from([None, None, "app", "hush3", "r" * 21, "t\tab", "name:x"]),
    st.sampled_from([None, None, uuid.UUID(int=5)]),
    st.sampled_from(["ok", "ok", "error", None]),
    st.sampled_from([None, None, "57014"]),
    st.sampled_from([1, 1, 0, None, 2**40]),
)  # fmt: skip
MOMENTS = st.integers(0, 3).flatmap(
    lambda second: st.sampled_from([0, 1, 10, 999_999, 120_000]).map(lambda micros: second * 1_000_000 + micros)
)
DURATIONS = st.sampled_from(
    [None, 0.0, 0.000_001, 0.000_099, 0.000_1, 0.001_5, 0.123_456, 0.999_999_9, 1.0, 61.25, -0.5, 1e6]
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(EVENTS, MOMENTS, DURATIONS), min_size=2, max_size=8))
def test_a_line_of_a_statement_that_came_before_is_written_as_any_other(told: list[tuple[Event, int, Any]]) -> None:
    instance = uuid.UUID(int=9)
    lines = Lines(MASK, instance)
    seen: set[bytes] = set()
    # The second time there is a pattern, unless the event is one of those that have none.
    for event, at, duration in [*told, *told]:
        alone = Lines(MASK, instance)
        alone.seq, alone.last_hash, alone.names_left = lines.seq, lines.last_hash, lines.names_left
        known, found = alone.add(event, at, duration), lines.add(event, at, duration)
        fields, expected = found.line.split(b"\t"), known.line.split(b"\t")
        place = CHAINED.index("id")
        drawn = uuid.UUID(fields[place].decode())
        assert drawn.version == 4 and drawn.variant == uuid.RFC_4122 and fields[place] not in seen
        seen.add(fields[place])
        fields[place] = expected[place]
        assert fields == expected
        assert (found.seq, found.prev_hash) == (known.seq, known.prev_hash)
        assert found.after(found.prev_hash).row_hash == found.row_hash
        assert lines.names_left == alone.names_left
        plain, stored = found.plain(), found.stored()
        assert (plain is None) == (known.plain() is None)
        assert plain is None or plain == stored.replace(b"\t\\\\x", b"\t\\x")
        assert found.packed() == packed_in_python(found) is not None


def packed_in_python(line: rows.Line) -> bytes | None:
    return rows.packed_row(line.line, line.prev_hash, line.row_hash)


# What stands in a field, as the log writes it and as it does not.
FIELDS = [
    rb"\N", b"", b"t", b"f", b"T", b"0", b"-0", b"-7", b"42", b"007", b"2147483647", b"2147483648", b"-2147483648", b"9" * 18, b"9" * 19, b"+1",
    b"1.5", b"-0.5", b"0.001234", b"1e-05", b"1.5e+16", b"1e", b".5", b"5.", b"1.2.3", b"inf", b"nan", b"0." + b"1" * 20, b"1" * 40, b"1e999", b"0x10",
    b"00000000-0000-0000-0000-0000000000aF", b"01234567-89ab-cdef-0123-456789abcdef", b"0123456789abcdef0123456789abcdef0123",
    b"1970-01-01 00:00:00+00", b"2026-02-28 23:59:59.999999+00", b"2024-02-29 00:00:00.1+00", b"2026-02-29 00:00:00+00", b"1999-12-31 23:59:59.5+00",
    b"0001-01-01 00:00:00+00", b"0000-01-01 00:00:00+00", b"2026-13-01 00:00:00+00", b"2026-01-01 24:00:00+00", b"2026-01-01 00:00:60+00",
    b"2026-01-01 00:00:00.+00", b"2026-01-01 00:00:00.1234567+00", b"2026-01-01 00:00:00+01", b"2026-01-01T00:00:00+00", b"infinity",
    b"{}", b"{a}", b"{a,b}", b"{NULL}", b"{null,Null,nul}", b'{"NULL"}', b'{""}', b'{"a b","c,d",e}', b"{a b}", b"{a,}", b"{,a}", b"{", b"}", b'{"a}',
    b'{"a"b}', b'{a"b}', b"{{a}}", b'{"a",NULL,"{}"}', b"[0:1]={a,b}", "{\u00e4,\u2003}".encode(), b"{a\x1fb}", b"{a\xff}", b"{a\x0bb}",
    b"10.0.0.7", b"10.0.0.07", b"10.0.0", b"10.0.0.7/8", b"256.0.0.1", b"::1", b"2001:db8::7:8", b"fe80::1%eth0", b"::ffff:1.2.3.4", b"1:2",
    rb'{"a\\"b"}', rb'{"a\\\\b","\\t",c}', rb'{"\t\n"}', rb"{a\\b}", rb'{"a\\"}', rb'{"a\\', rb"\x\b\f\n\r\t\v\\", b"lone\\", b"\\\xc3\xa4",
    b"a text", b"back\\\\slash", b"\\n", b"z\0", "\u00e4\U0001f511".encode(),
]  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.integers(0, 2),
    st.lists(st.tuples(st.integers(0, len(CHAINED) - 1), st.sampled_from(FIELDS)), max_size=3),
    st.sampled_from([0, 0, 0, 0, -1, 1]),
)
def test_a_row_is_packed_alike(who: int, changed: list[tuple[int, bytes]], more: int) -> None:
    event = Event("access", WHO[who % 2], 1, GETTER, "read", OWNER, ("key",), protocol="simple", outcome="ok", calls=1)
    fields = Lines(MASK, uuid.UUID(int=9)).add(event, 1_000_001, 0.25).line.split(b"\t")
    for place, text in changed:
        fields[place] = text
    line = b"\t".join(fields[: len(fields) + min(more, 0)] + fields[: max(more, 0)])
    known = rows.packed_row(line, b"p" * 32, b"r" * 32)
    assert rows.WRITERS[2](line, b"p" * 32, b"r" * 32) == known
    assert changed or more or known is not None


@pytest.mark.parametrize("field", range(len(CHAINED)))
def test_each_field_is_packed_alike(field: int) -> None:
    event = Event("access", WHO[0], 1, GETTER, "read", OWNER, ("key",), protocol="simple", outcome="ok", calls=1)
    fields = Lines(MASK, uuid.UUID(int=9)).add(event, 1_000_001, 0.25).line.split(b"\t")
    for text in [*FIELDS, b"x" * 5000, b"{" + b"a," * 5000 + b"a}", b"{" + b'"",' * 5000 + b"NULL}"]:
        fields[field] = text
        line = b"\t".join(fields)
        known = rows.packed_row(line, b"p" * 32, b"r" * 32)
        assert rows.WRITERS[2](line, b"p" * 32, b"r" * 32) == known, text
        if b"\\" in text and text != rb"\N" and TYPES[CHAINED[field]] not in ("text", "text[]"):
            assert known is None


def test_no_text_that_is_masked_is_remembered() -> None:
    lines = Lines(MASK, uuid.UUID(int=9))
    for function, role in [("hush1", None), (GETTER, "hush2"), (GETTER, "r" * 21)]:
        for _ in range(2):
            lines.add(Event("access", WHO[0], 1, function, "read", role=role, fingerprint="f"), 0, None)
    assert "hush" not in repr(vars(lines) if hasattr(lines, "__dict__") else lines)


# --- rows that are written in C, with their line, their hash and their binary form ---

linked, _, packed_in_c, part_of = rows.WRITERS
only_compiled = pytest.mark.skipif(linked is rows.no_row, reason="nothing was compiled")
# Longer names stand in the log as they are.
WIDE = NameMask(200, ("hush[0-9]+",), b"k" * 32)
YEAR_10000 = 253_402_300_800_000_000
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@only_compiled
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.one_of(st.integers(0, YEAR_10000 - 1), MOMENTS),
    st.one_of(st.floats(0.0, 1.1), st.integers(0, 1_100_000).map(lambda micros: micros / 1e6), DURATIONS),
    st.uuids(),
    st.one_of(st.none(), st.uuids()),
    st.lists(st.one_of(TEXTS, st.none()), min_size=1, max_size=3).map(tuple),
    st.tuples(*[st.one_of(st.none(), st.integers(0, 10**18 - 1))] * 2),
    st.tuples(TEXTS, TEXTS, TEXTS, st.sampled_from([None, "10.0.0.7", "2001:db8::7", "::ffff:1.2.3.4", "fe80::1%e"])),
    TEXTS,
)
def test_a_row_is_the_same_in_each_of_its_forms(
    at: int,
    duration: float | None,
    owner: uuid.UUID,
    user: uuid.UUID | None,
    names: tuple[str | None, ...],
    numbers: tuple[int | None, int | None],
    of_identity: tuple[str, str, str, str | None],
    role: str,
) -> None:
    login, database, application, address = of_identity
    who = Identity(user or owner, login, database, application, address and ipaddress.ip_address(address), 1, True)
    events = [
        Event("access", one, numbers[0], GETTER, "read", owner, names, None, None, "simple", "f", role, user, "ok", None, numbers[1])
        for one in (Identity(owner), who, who)
    ]  # fmt: skip
    lines, alone = Lines(WIDE, owner), Lines(WIDE, owner)
    first, second, third = [lines.add(event, at, duration) for event in events]
    assert first._packed is None
    expected = alone.add(events[0], at, duration)
    for found in (second, third):
        alone._patterns.clear()
        alone.seq, alone.last_hash = found.seq - 1, found.prev_hash
        expected = alone.add(events[1], at, duration)
        assert expected._packed is None
        place = CHAINED.index("id")
        known, fields = expected.line.split(b"\t"), found.line.split(b"\t")
        known[place] = fields[place]
        assert fields == known
        assert found.row_hash == hashlib.sha256(found.prev_hash + found.line).digest()
        assert found.packed() == packed_in_python(found) is not None
    # It was written in C, unless something in it is none of the commonest.
    micros = None if duration is None else int(duration * 1e6 + 0.5)
    if (micros is None or 100 <= micros < 1_000_000) and role.isalnum() and role.isascii():
        assert second._packed is not None and third._packed is not None


@only_compiled
@pytest.mark.parametrize(
    "at",
    [0, 951_782_400_000_000 - 1, 951_868_800_000_000, 4_107_542_400_000_000 - 1, 4_107_542_400_000_000, YEAR_10000 - 1],
)
def test_the_last_days_of_february_are_written_right(at: int) -> None:
    lines = Lines(WIDE, uuid.UUID(int=9))
    event = Event("access", WHO[0], 1, GETTER, "read", OWNER, ("key",), fingerprint="f")
    told = [lines.add(event, at, None).line.split(b"\t")[CHAINED.index("at")] for _ in range(2)]
    assert told[0] == told[1]


@only_compiled
def test_parts_are_what_a_row_has_of_their_fields() -> None:
    event = Event("access", WHO[0], 1, GETTER, "read", OWNER, ("key",), protocol="simple", outcome="ok", calls=1)
    common = Lines(WIDE, uuid.UUID(int=9)).add(event, 1_000_001, 0.25).line.split(b"\t")
    fields = [*FIELDS, b"x" * 4096, b"x" * 4097, b"{" + b"a," * 2040 + b"a}", b"{" + b'"",' * 1300 + b"NULL}"]
    for place, name in enumerate(CHAINED):
        for text in fields:
            part = part_of(text, place)
            whole = packed_in_c(b"\t".join([*common[:place], text, *common[place + 1 :]]), b"p" * 32, b"r" * 32)
            if name in ("seq", "id", "at") or len(text) > 4096 or whole is None:
                assert part is None, (name, text)
                continue
            size = len(text)
            assert part is not None and part[:4] == size.to_bytes(4, sys.byteorder) and part[4 : 4 + size] == text
            assert whole.count(part[4 + size :]) >= 1
    # Several, side by side.
    pair = part_of(b"\t".join(common[18:23]), 18)
    assert pair is not None and pair.endswith(b"".join([(part_of(common[at], at) or b"")[4 + len(common[at]) :] for at in range(18, 23)]))  # fmt: skip
    for wrong in ((b"t\tt", 26), (b"a\tb", 4), (b"a", 27), (b"a", -1), (b"a", 2**40), (b"a\0", 7)):
        assert part_of(*wrong) is None
    for wrong_type in ((), (b"a",), ("a", 7), (b"a", "7"), (b"a", None), (b"a", 7, 8)):
        with pytest.raises(TypeError):
            part_of(*wrong_type)  # type: ignore[call-arg, arg-type]
    with pytest.raises(OverflowError):
        part_of(b"a", 2**70)


def parts(*texts: tuple[str, int]) -> tuple[bytes, ...]:
    made = rows._parts(*texts)
    assert made is not None
    return made


@only_compiled
def test_fields_that_are_none_are_refused_or_left() -> None:
    instance, names = parts((str(uuid.UUID(int=9)), 0), ("{key}", 10))
    pattern = parts(("access", 4), ("f\tread", 7), ("\\N\t\\N\tsimple\tfp", 11), ("\\N", 16), ("ok\t\\N", 23))
    known = parts((str(OWNER), 5), ("app", 15), ("d\ta\t\\N\t1\tt", 18))
    given: list[Any] = [b"p" * 32, instance, 1, b"r" * 32, 16, 7, pattern, known, 1, OWNER, names, None, 0.25, 1]

    def replaced(place: int, wrong: object) -> tuple[bytes, bytes, bytes] | None:
        return linked(*given[:place], wrong, *given[place + 1 :])

    made = linked(*given)
    assert made is not None
    assert made[1] == hashlib.sha256(b"p" * 32 + made[0]).digest()
    assert made[2] == rows.packed_row(made[0], b"p" * 32, made[1])
    long = parts(("{" + "t" * 4000 + "}", 10))[0]
    cut = [names[:end] for end in range(4)] + [(2**31).to_bytes(4, sys.byteorder) + names[4:], b"\xff" * 4 + names[4:]]
    for place, wrong in [
        (1, names), (1, b""), (1, None), (2, -1), (2, None), (2, 2**70), (2, 10**18), (3, b"r" * 31), (3, "r" * 32), (3, b""), (4, 17),
        (4, -1), (4, 2**62), (4, None), (5, -1), (5, YEAR_10000), (5, None), (8, -1), (8, "1"), (9, "o"), (9, 7), (9, None.__class__),
        *[(10, part) for part in cut], (10, long), (10, "t" * 4000), (10, "k\0"), (10, 7), (11, "a"), (12, 1), (12, 1.0), (12, 0.000_099), (12, -0.5), (12, 1e300),
        (12, float("nan")), (12, float("inf")), (13, -1), (13, 10**18),
        (6, (None, *pattern[1:])), (6, (*pattern[:4], long)), (7, (long, *known[1:])), (7, (*known[:2], names[:3])),
    ]:  # fmt: skip
        assert replaced(place, wrong) is None, (place, wrong)
    for number in (-1, 2**128, "text", None):
        assert replaced(9, SimpleNamespace(int=number)) is None
    for number in (0, 2**64, 2**128 - 1, 2**127):
        assert replaced(9, uuid.UUID(int=number)) is not None
    wrong_kinds: list[tuple[int, object]] = [
        (0, b"p" * 31), (0, "p" * 32), (6, pattern[:4]), (6, list(pattern)), (7, known[:2]), (7, None),
    ]  # fmt: skip
    for place, wrong in wrong_kinds:
        with pytest.raises(TypeError):
            replaced(place, wrong)
    for wrong_count in ((), given[:-1], [*given, 1]):
        with pytest.raises(TypeError):
            linked(*wrong_count)
    with pytest.raises(UnicodeEncodeError):
        replaced(10, "\ud800")
    assert replaced(10, "key") == made
    # None of it changed what comes next.
    assert linked(*given) == made


@only_compiled
def test_rows_and_lines_are_of_bytes() -> None:
    plain = rows.WRITERS[1]
    for wrong_row in [(), (b"l", b"p" * 32), (b"l", b"p" * 31, b"r" * 32), ("l", b"p" * 32, b"r" * 32)]:
        with pytest.raises(TypeError):
            plain(*wrong_row)  # type: ignore[call-arg,arg-type]
        with pytest.raises(TypeError):
            packed_in_c(*wrong_row)  # type: ignore[call-arg,arg-type]


def test_rows_that_wait_for_long_are_not_kept_in_two_forms() -> None:
    lines, waiting = Lines(WIDE, uuid.UUID(int=9)), deque[rows.Line]()
    event = Event("access", WHO[0], 1, GETTER, "read", OWNER, ("key",), protocol="simple", fingerprint="f")
    for _ in range(1100):
        lines.take([event], 1, 1.0, waiting)
    assert all(line._packed is None for line in list(waiting)[1024:])
    assert waiting[-1].packed() == packed_in_python(waiting[-1])
    if linked is not rows.no_row:
        assert waiting[1]._packed == packed_in_python(waiting[1])
