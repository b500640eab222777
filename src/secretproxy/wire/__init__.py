"""The PostgreSQL wire protocol, version 3: cutting a byte stream into messages, and reading and building messages.

Bytes in, bytes out. Imports nothing of the rest of the package and nothing that does I/O.
"""
