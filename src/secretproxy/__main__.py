"""The `secretproxy` command, also as `python -m secretproxy`: Ctrl-C while it imports itself ends it without a word,
with status 130."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Runs the command line."""

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        os._exit(130)

    # Nothing is open yet that would have to be closed. What a parent process had ignored stays ignored.
    interrupts = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interrupts:
        signal.signal(signal.SIGINT, end)
    from secretproxy.cli import main as run

    if interrupts:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
