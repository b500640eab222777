"""The states of a session and what a client's message means in each. Everything that decides that stands in this file.

A session begins when its startup packet has gone to the backend.

    LOGIN      authentication is relayed; the client may only answer it (or leave)
    GREETING   the backend is ready, the proxy sets the session's token; what the client says meanwhile waits
    READY      the client's messages go on, read on their way
    CLOSED     the client has said Terminate or what ends a session, or the session was ended: no more of it goes on

A message that has no entry for the state is not the client's to send. It goes on, the last one that does: the backend ends
the session, in its own words (SocketBackend() of src/backend/tcop/postgres.c). The names on the right are methods of Session: a
client's in client.py, a backend's in greeting.py until it is ready and in answers.py from then on, a notice in testified.py.
"""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    LOGIN = "login"
    GREETING = "greeting"
    READY = "ready"
    CLOSED = "closed"


CLIENT_MESSAGES: dict[Phase, dict[bytes, str]] = {
    Phase.LOGIN: {
        b"p": "client_authentication",
        b"X": "client_terminate",
    },
    Phase.GREETING: {},
    Phase.READY: {
        b"Q": "client_query",
        b"P": "client_parse",
        b"B": "client_bind",
        b"D": "client_describe",
        b"E": "client_execute",
        b"C": "client_close",
        b"S": "client_sync",
        b"H": "client_flush",
        b"F": "client_function_call",
        b"d": "client_flush",
        b"c": "client_copy_end",
        b"f": "client_copy_end",
        b"X": "client_terminate",
    },
    Phase.CLOSED: {},
}

BACKEND_LOGIN: dict[bytes, str] = {
    b"R": "backend_authentication",
    b"S": "backend_parameter_status",
    b"K": "backend_key_data",
    b"E": "backend_error",
    b"N": "backend_notice",
    b"A": "backend_plain",
    b"v": "backend_plain",
    b"Z": "backend_logged_in",
}

BACKEND_GREETING: dict[bytes, str] = {
    b"T": "backend_dropped",
    b"D": "backend_greeting_row",
    b"C": "backend_dropped",
    b"V": "backend_dropped",
    b"E": "backend_error",
    b"N": "backend_notice",
    b"S": "backend_parameter_status",
    b"A": "backend_plain",
    b"Z": "backend_greeted",
}

BACKEND_READY: dict[bytes, str] = {
    b"1": "backend_parse_complete",
    b"2": "backend_bind_complete",
    b"3": "backend_close_complete",
    b"t": "backend_parameter_description",
    b"T": "backend_row_description",
    b"n": "backend_row_description",
    b"C": "backend_complete",
    b"I": "backend_complete",
    b"s": "backend_suspended",
    b"V": "backend_plain",
    b"G": "backend_copy_in",
    b"H": "backend_plain",
    b"W": "backend_plain",
    b"c": "backend_plain",
    b"d": "backend_plain",
    b"D": "backend_plain",
    b"E": "backend_error",
    b"N": "backend_notice",
    b"S": "backend_parameter_status",
    b"A": "backend_plain",
    b"K": "backend_key_data",
    b"Z": "backend_ready",
}
