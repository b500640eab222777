"""Names the protocol's type bytes, the fields of an ErrorResponse and the SQLSTATEs in use.

The names are those of src/include/libpq/protocol.h, src/include/postgres_ext.h and src/backend/utils/errcodes.txt.
mypyc puts the numbers themselves where a name is used.
"""

from __future__ import annotations

from typing import Final


class FrontendMessage:
    """The type bytes of what a client sends."""

    BIND: Final = 0x42
    CLOSE: Final = 0x43
    COPY_DATA: Final = 0x64
    COPY_DONE: Final = 0x63
    COPY_FAIL: Final = 0x66
    DESCRIBE: Final = 0x44
    EXECUTE: Final = 0x45
    FLUSH: Final = 0x48
    FUNCTION_CALL: Final = 0x46
    PARSE: Final = 0x50
    # PasswordMessage, SASLInitialResponse, SASLResponse and GSSResponse: only the login's state tells them apart.
    PASSWORD: Final = 0x70
    QUERY: Final = 0x51
    SYNC: Final = 0x53
    TERMINATE: Final = 0x58


class BackendMessage:
    """The type bytes of what a backend sends."""

    AUTHENTICATION: Final = 0x52
    BACKEND_KEY_DATA: Final = 0x4B
    BIND_COMPLETE: Final = 0x32
    CLOSE_COMPLETE: Final = 0x33
    COMMAND_COMPLETE: Final = 0x43
    COPY_BOTH_RESPONSE: Final = 0x57
    COPY_DATA: Final = 0x64
    COPY_DONE: Final = 0x63
    COPY_IN_RESPONSE: Final = 0x47
    COPY_OUT_RESPONSE: Final = 0x48
    DATA_ROW: Final = 0x44
    EMPTY_QUERY_RESPONSE: Final = 0x49
    ERROR_RESPONSE: Final = 0x45
    FUNCTION_CALL_RESPONSE: Final = 0x56
    NEGOTIATE_PROTOCOL_VERSION: Final = 0x76
    NO_DATA: Final = 0x6E
    NOTICE_RESPONSE: Final = 0x4E
    NOTIFICATION_RESPONSE: Final = 0x41
    PARAMETER_DESCRIPTION: Final = 0x74
    PARAMETER_STATUS: Final = 0x53
    PARSE_COMPLETE: Final = 0x31
    PORTAL_SUSPENDED: Final = 0x73
    READY_FOR_QUERY: Final = 0x5A
    ROW_DESCRIPTION: Final = 0x54


class ErrorField:
    """The type bytes of the fields of an ErrorResponse or NoticeResponse."""

    SEVERITY: Final = 0x53
    SEVERITY_NONLOCALIZED: Final = 0x56
    SQLSTATE: Final = 0x43
    MESSAGE: Final = 0x4D
    DETAIL: Final = 0x44
    HINT: Final = 0x48
    CONTEXT: Final = 0x57
    CONSTRAINT_NAME: Final = 0x6E


class SqlState:
    """The SQLSTATEs in use, by their names in PostgreSQL (src/backend/utils/errcodes.txt)."""

    SUCCESSFUL_COMPLETION: Final = "00000"
    WARNING: Final = "01000"
    SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION: Final = "08001"
    CONNECTION_FAILURE: Final = "08006"
    PROTOCOL_VIOLATION: Final = "08P01"
    FEATURE_NOT_SUPPORTED: Final = "0A000"
    DIVISION_BY_ZERO: Final = "22012"
    INVALID_PARAMETER_VALUE: Final = "22023"
    CHECK_VIOLATION: Final = "23514"
    READ_ONLY_SQL_TRANSACTION: Final = "25006"
    IN_FAILED_SQL_TRANSACTION: Final = "25P02"
    TRANSACTION_TIMEOUT: Final = "25P04"
    INVALID_AUTHORIZATION_SPECIFICATION: Final = "28000"
    INVALID_PASSWORD: Final = "28P01"  # noqa: S105
    INVALID_CATALOG_NAME: Final = "3D000"
    INVALID_SCHEMA_NAME: Final = "3F000"
    DEADLOCK_DETECTED: Final = "40P01"
    INSUFFICIENT_PRIVILEGE: Final = "42501"
    UNDEFINED_COLUMN: Final = "42703"
    UNDEFINED_OBJECT: Final = "42704"
    UNDEFINED_FUNCTION: Final = "42883"
    UNDEFINED_TABLE: Final = "42P01"
    DISK_FULL: Final = "53100"
    TOO_MANY_CONNECTIONS: Final = "53300"
    PROGRAM_LIMIT_EXCEEDED: Final = "54000"
    OBJECT_NOT_IN_PREREQUISITE_STATE: Final = "55000"
    LOCK_NOT_AVAILABLE: Final = "55P03"
    QUERY_CANCELED: Final = "57014"
    ADMIN_SHUTDOWN: Final = "57P01"
    CANNOT_CONNECT_NOW: Final = "57P03"
    IO_ERROR: Final = "58030"
    RAISE_EXCEPTION: Final = "P0001"
    INTERNAL_ERROR: Final = "XX000"
    DATA_CORRUPTED: Final = "XX001"
    INDEX_CORRUPTED: Final = "XX002"


class TransactionStatus:
    """The transaction status in a ReadyForQuery."""

    IDLE: Final = "I"
    IN_TRANSACTION: Final = "T"
    FAILED: Final = "E"
