"""PostgreSQL's client encodings as Python codecs (src/include/mb/pg_wchar.h, pg_enc).

An encoding without a Python codec is read as Latin-1: every byte has a character and ASCII stays ASCII, so names are still found.
"""

from __future__ import annotations

_CODECS = {
    "UTF8": "utf-8", "UNICODE": "utf-8", "SQL_ASCII": "latin-1",
    "LATIN1": "latin-1", "LATIN2": "iso8859-2", "LATIN3": "iso8859-3", "LATIN4": "iso8859-4", "LATIN5": "iso8859-9",
    "LATIN6": "iso8859-10", "LATIN7": "iso8859-13", "LATIN8": "iso8859-14", "LATIN9": "iso8859-15", "LATIN10": "iso8859-16",
    "ISO_8859_5": "iso8859-5", "ISO_8859_6": "iso8859-6", "ISO_8859_7": "iso8859-7", "ISO_8859_8": "iso8859-8",
    "WIN866": "cp866", "WIN874": "cp874", "WIN1250": "cp1250", "WIN1251": "cp1251", "WIN1252": "cp1252", "WIN1253": "cp1253",
    "WIN1254": "cp1254", "WIN1255": "cp1255", "WIN1256": "cp1256", "WIN1257": "cp1257", "WIN1258": "cp1258",
    "KOI8R": "koi8-r", "KOI8U": "koi8-u",
    "EUC_JP": "euc_jp", "EUC_JIS_2004": "euc_jis_2004", "SJIS": "cp932", "SHIFT_JIS_2004": "shift_jis_2004",
    "EUC_CN": "gb2312", "GBK": "gbk", "GB18030": "gb18030", "BIG5": "cp950", "EUC_KR": "euc_kr", "UHC": "cp949", "JOHAB": "johab",
}  # fmt: skip


def codec(client_encoding: str) -> str:
    return _CODECS.get(client_encoding.upper(), "latin-1")
