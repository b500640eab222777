"""Provides a standby of a private server: its base backup, streaming from it, promoted as a cluster manager would."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from secretproxy.demo.postgres import PrivateServer


class Standby(PrivateServer):
    """Starts as a standby of `primary`, which must have a replication rule for local connections."""

    def __init__(self, primary: PrivateServer) -> None:
        super().__init__(primary.binaries, settings={"hot_standby": "on", "wal_receiver_timeout": "2s"})
        self._primary = primary

    def _initialize(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="secretproxy-standby-"))
        self.directory = directory
        if self._user is not None:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)
        directory.chmod(0o755)
        self._run(
            "pg_basebackup", "-D", self.data, "-R", "--no-sync", "-c", "fast", "-X", "stream",
            "-d", f"host={self._primary.host} port={self._primary.port} user=postgres",
        )  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as config:
            for name, value in (
                {"port": str(self.port), "unix_socket_directories": str(directory)} | self.settings
            ).items():
                config.write(f"{name} = '{value}'\n")

    def promote(self) -> None:
        self._run("pg_ctl", "promote", "-w", "-D", self.data)

    def stop(self) -> None:
        self.halt(3)
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None
