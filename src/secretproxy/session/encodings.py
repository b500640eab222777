"""PostgreSQL's encodings as Python codecs (src/include/mb/pg_wchar.h, pg_enc), and the one form that a name has for
detection, testimony and the log: the characters of its UTF-8, a byte that is none as a lone surrogate (PEP 383).
Nothing is lost on the way.

An encoding without a Python codec is read as Latin-1: every byte has a character and ASCII stays ASCII, so names
are still found. A server of SQL_ASCII converts nothing, and scans a statement byte by byte, whatever the client
calls its encoding: its texts are read as Latin-1 too, and their names made what their bytes say (`native`).
"""

from __future__ import annotations

_CODECS = {
    "UTF8": "utf-8", "UNICODE": "utf-8", "SQL_ASCII": "latin-1",
    "LATIN1": "latin-1", "LATIN2": "iso8859-2", "LATIN3": "iso8859-3", "LATIN4": "iso8859-4", "LATIN5": "iso8859-9",
    "LATIN6": "iso8859-10", "LATIN7": "iso8859-13", "LATIN8": "iso8859-14", "LATIN9": "iso8859-15", "LATIN10":
        "iso8859-16",
    "ISO_8859_5": "iso8859-5", "ISO_8859_6": "iso8859-6", "ISO_8859_7": "iso8859-7", "ISO_8859_8": "iso8859-8",
    "WIN866": "cp866", "WIN874": "cp874", "WIN1250": "cp1250", "WIN1251": "cp1251", "WIN1252": "cp1252", "WIN1253":
        "cp1253",
    "WIN1254": "cp1254", "WIN1255": "cp1255", "WIN1256": "cp1256", "WIN1257": "cp1257", "WIN1258": "cp1258",
    "KOI8R": "koi8-r", "KOI8U": "koi8-u",
    "EUC_JP": "euc_jp", "EUC_JIS_2004": "euc_jis_2004", "SJIS": "cp932", "SHIFT_JIS_2004": "shift_jis_2004",
    "EUC_CN": "gb2312", "GBK": "gbk", "GB18030": "gb18030", "BIG5": "cp950", "EUC_KR": "euc_kr", "UHC": "cp949",
        "JOHAB": "johab",
}  # fmt: skip


def codec(encoding: str) -> str:
    """Names the Python codec of one of PostgreSQL's encodings."""
    return _CODECS.get(encoding.upper(), "latin-1")


def session_codec(client_encoding: str, server_encoding: str) -> str:
    """Names the codec of what a client says: one that calls itself SQL_ASCII speaks as the server does
    (pg_any_to_server() of mbutils.c)."""
    if server_encoding.upper() == "SQL_ASCII":
        return "latin-1"
    return codec(server_encoding if client_encoding.upper() == "SQL_ASCII" and server_encoding else client_encoding)


def native(name: str) -> str | None:
    """Reads the bytes of a name in a server of SQL_ASCII, given as Latin-1; None if it holds what no byte is."""
    if name.isascii():
        return name
    try:
        return name.encode("latin-1").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


def decoded(raw: bytes, encoding: str) -> str:
    """Decodes what a codec may not know all of, without losing a byte."""
    return raw.decode(encoding, "surrogateescape" if encoding == "utf-8" else "backslashreplace")


def encoded(text: str, encoding: str) -> bytes:
    """Encodes what `decoded` gave, or a name in a text of that encoding."""
    return text.encode(encoding, "surrogateescape" if encoding == "utf-8" else "backslashreplace")
