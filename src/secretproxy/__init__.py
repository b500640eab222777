"""secretproxy: a PostgreSQL proxy that writes every call of an encrypted_secrets function to an access log."""

__version__ = "0.1.0"
