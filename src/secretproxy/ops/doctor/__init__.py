"""The doctor: looks at a backend and at the proxy's own configuration for what would leak a value or let a call go by
unseen.

It only reads. Each finding says what is so, why it matters, and the statement or setting that fixes it.
"""

from secretproxy.ops.doctor.checks import examine
from secretproxy.ops.doctor.findings import SEVERITIES, Finding

__all__ = ["SEVERITIES", "Finding", "examine"]
