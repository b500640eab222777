"""The one error that install, verify, revert and keys end with. Pure."""

from __future__ import annotations


class InstallError(Exception):
    """Install, verify, revert or keys cannot go on; the text says why and what to do."""


class LostError(InstallError):
    """The connection broke meanwhile."""


class RefusedError(InstallError):
    """The login may not do this."""
