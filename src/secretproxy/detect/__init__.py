"""Finds the secret calls of a statement: by PostgreSQL's own grammar (pglast), argument templates, a verdict cache.

Text in, verdicts out. May import wire; never does I/O, and never puts statement text into an exception or a log.
"""

from secretproxy.detect.calls import Call, Operation, ResolvedCall
from secretproxy.detect.detector import Detector
from secretproxy.detect.verdict import Verdict

__all__ = ["Call", "Detector", "Operation", "ResolvedCall", "Verdict"]
