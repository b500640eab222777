"""Measures how long another session's `select 1` takes while four others send one shape of text: median and 95 in a hundred, in
ms.

`python -m benchmarks.stalls [--direct] [--seconds N] [WORD ...]`: a PostgreSQL and a proxy of its own; shapes whose
names hold one of the words. `--direct`: attackers and victim go past the proxy, which shows what the backends' work
alone does to the victim."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from tests.conftest import prepare
from tests.support.proxy import Proxy
from tests.support.raw import Address
from tests.support.shapes import SHAPES
from tests.support.stall import attacked, idle

from secretproxy.demo.postgres import PrivateServer, find_postgres

SIZES = (1024, 8192, 65_536)


async def measure(address: Address, names: list[str], seconds: float) -> None:
    print(f"{'':40} " + " ".join(f"{f'{size // 1024} KB':>17}" for size in SIZES) + "   median / 95 %, ms")
    quiet = await idle(address, 2.0)
    print(f"{'idle':40} {quiet.median:8.2f} /{quiet.p95:7.2f}")
    worst = 0.0
    for name in names:
        cells = []
        for size in SIZES:
            found, _ = await attacked(address, [SHAPES[name](size)], seconds)
            worst = max(worst, found.median - quiet.median)
            cells.append(f"{found.median:8.2f} /{found.p95:7.2f}")
        print(f"{name:40} " + " ".join(cells), flush=True)
    print(f"largest median beyond the idle one: {worst:.2f} ms")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--direct", action="store_true")
    options.add_argument("--seconds", type=float, default=1.0)
    options.add_argument("words", nargs="*")
    given = options.parse_args()
    names = [name for name in SHAPES if not given.words or any(word in name for word in given.words)]
    with tempfile.TemporaryDirectory() as made, PrivateServer(find_postgres()) as server:
        directory = Path(made)
        backend = prepare(server.host, server.port, directory)
        if given.direct:
            asyncio.run(measure(Address("127.0.0.1", backend.port, "app"), names, given.seconds))
            return
        proxy = Proxy(directory, backend.address, backend.dsn("journal"), backend.key_file).start()
        try:
            proxy.wait_for_text("access log can be written")
            asyncio.run(measure(Address("127.0.0.1", proxy.port, "app"), names, given.seconds))
        finally:
            proxy.stop()


if __name__ == "__main__":
    main()
