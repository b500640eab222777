"""One session, from startup to close: what each message means, which calls a statement makes, what the backend
testified.

Messages in, decisions out: no sockets, no clocks, no event loop. May import wire and detect.
"""
