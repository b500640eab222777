"""The PostgreSQL wire protocol, version 3: its types, and reading and building messages.

Bytes in, bytes out. Imports nothing of the rest of the package and nothing that does I/O.
"""
