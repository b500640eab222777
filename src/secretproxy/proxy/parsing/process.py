"""The process that long or laborious texts are parsed in: reads texts from its standard input, writes verdicts to its
standard output.

Started by parsers.py, which ends it where a text takes too long. It holds no key and opens nothing; its memory is
bounded, and what it was given is in no file, no log and no core dump. A child of the proxy alone: what it reads is
trusted to be the proxy's."""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import struct
import sys
from typing import BinaryIO

from secretproxy.detect import Detector, Verdict
from secretproxy.detect.dependencies import Dependencies
from secretproxy.detect.transfer import pack

HEADER = struct.Struct("!I?")
READY = b"ready"
# What is wanted of a text: its verdict, the one by its words, that of a template (Detector.of_marked).
ANALYSE, BY_WORDS, OF_MARKED = 0, 1, 2
# Bytes of address space, and kilobytes of memory in use after which another process takes this one's place.
_MOST_MEMORY = 1024 * 1024 * 1024
_KEPT_MEMORY = 192 * 1024
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4


def _confine() -> None:
    """Ends with the proxy and not before it, yields to it, and keeps what it sees to itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    os.nice(10)


def _answer(out: BinaryIO, data: bytes) -> bool:
    """Writes an answer; gives whether the process goes on."""
    last = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > _KEPT_MEMORY
    out.write(HEADER.pack(len(data), last) + data)
    out.flush()
    return not last


def main() -> None:
    """Serves until the proxy closes the pipe."""
    _confine()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    detectors: dict[int, Detector] = {}
    _answer(answers, READY)
    while True:
        header = requests.read(HEADER.size)
        if len(header) < HEADER.size:
            return
        kind, *rest = pickle.loads(requests.read(HEADER.unpack(header)[0]))  # noqa: S301 (the proxy wrote it)
        if kind == "learn":
            number, schemas, tables, dependencies = rest
            detector = detectors[number] = Detector(schemas, tables)
            detector.learn(Dependencies(*dependencies))
        elif kind == "forget":
            detectors.pop(rest[0], None)
        else:
            number, text, encoding, conforming_strings, way = rest
            detector = detectors[number]
            if way == OF_MARKED:
                verdict = detector.of_marked(text) or Verdict(parsed=False)
            elif way == BY_WORDS:
                verdict = detector.by_words(text, encoding)
            else:
                verdict = detector.analyse(text, encoding, conforming_strings)
            if not _answer(answers, pack(verdict)):
                return


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        # No traceback: it may quote what was parsed.
        os._exit(1)
