"""Runs the sqitch project on asyncpg: install, verify, revert, and the key file that the proxy and the database
share."""

from secretproxy.install.errors import InstallError
from secretproxy.install.keyfile import KeyFileError, create_key_file, load_key_file
from secretproxy.install.runner import install, remedy, revert, verify

__all__ = ["InstallError", "KeyFileError", "create_key_file", "install", "load_key_file", "remedy", "revert", "verify"]
