"""asyncio: listeners, the relay between a client and its backend, cancel requests, workers, drain.

The only package, with audit's journal and ops, that has sockets. It carries out what session decides and decides nothing itself.
"""
