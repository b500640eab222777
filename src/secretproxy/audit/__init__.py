"""The access log: rows, hash chain, the journal that writes them in groups.

May import session's events; nothing here may hold a value, a statement's text or a parameter.
"""
