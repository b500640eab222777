"""Runs session and framer under atheris, which looks for bytes that reach code not reached before. Run by
test_atheris.py.

Works on a copy of the sources without shared objects: only Python code can be watched.
"""

from __future__ import annotations

import os
import sys

import atheris

with atheris.instrument_imports(include=["secretproxy.session", "secretproxy.wire"]):
    from tests.fuzz.harness import Harness
    from tests.fuzz.pure import INSTALLED
    from tests.fuzz.test_framing import frame, pieces

if INSTALLED.compiled():
    raise SystemExit("this needs the sources without compiled modules")


def look(data: bytes) -> None:
    if not data:
        return
    if data[0] % 2:
        harness = Harness(INSTALLED, strict="FUZZ_SECONDS" in os.environ)
        harness.play(data[1:])
        harness.finish()
        return
    stream = data[1:]
    whole, cut = (frame(INSTALLED, chunks, ["demand"]) for chunks in ([stream], pieces(stream, list(data[:20]))))
    assert (whole["seen"], whole["error"]) == (cut["seen"], cut["error"])
    # And at a session, as a client's and as a backend's: its own error or none.
    for way in ("from_client", "from_backend"):
        session = Harness(INSTALLED).session
        for chunk in pieces(stream, list(data[:20])):
            try:
                getattr(session, way)(chunk)
            except INSTALLED.ProtocolViolationError:
                break


atheris.Setup(sys.argv, look)
atheris.Fuzz()
