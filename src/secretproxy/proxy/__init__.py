"""asyncio: listeners (server), a client's startup, the relay between it and its backend, cancel requests, workers, drain.

The only package, with audit's journal and ops, that has sockets. It carries out what session decides and decides nothing itself.
"""
