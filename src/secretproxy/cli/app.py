"""The command line's frame: the typer application, its commands in the order of `--help`, and how errors end it.

May import every command; commands import nothing of it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import platform
import sys
import traceback
from typing import Any

import typer

from secretproxy import __version__
from secretproxy.config import ConfigError

app = typer.Typer(
    name="secretproxy",
    help="Proxy for PostgreSQL that writes every call of an encrypted_secrets function to an access log.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_READER_GONE = 128 + 13
COMMANDS = ("init", "run", "console", "demo", "check", "env", "install", "verify", "revert", "doctor")
GROUPS = ("audit", "keys")


def _version(wanted: bool) -> None:
    if wanted:
        from secretproxy.ops.metrics import compiled

        typer.echo(f"secretproxy {__version__} ({compiled()}, Python {platform.python_version()})")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", "-V", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    del version


for _name in COMMANDS:
    app.command(_name)(getattr(importlib.import_module(f"secretproxy.cli.{_name}"), _name))
for _name in GROUPS:
    app.add_typer(importlib.import_module(f"secretproxy.cli.{_name}").app, name=_name)


def _open_standard_streams() -> None:
    """Puts the null device where the caller closed a standard stream. Raises ConfigError for standard output.

    A socket would get the free number, and Python would print to standard output what is meant for standard error.
    """
    closed = sys.stdout is None
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "w" if number else "r"))  # noqa: SIM115 - stays open
    if closed:
        raise ConfigError("standard output is closed: send it to /dev/null where nobody reads it")


class _Output(io.FileIO):
    """Standard output; an error of it says of what it is."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = error.filename or "standard output"
            raise


def _name_output() -> None:
    """Has errors of standard output name it, where it is a file descriptor's text as usual; a character that its
    encoding does not know is written as an escape."""
    out = sys.stdout
    # The second where PYTHONUNBUFFERED is set: a raw file may also write a part alone.
    if type(out) is io.TextIOWrapper and type(out.buffer) in (io.BufferedWriter, io.FileIO):
        out.flush()
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Output(out.fileno(), "w", closefd=False)), encoding=out.encoding,
            errors="backslashreplace", line_buffering=out.line_buffering or type(out.buffer) is io.FileIO,
            write_through=out.write_through,
        )  # fmt: skip


def _give_up(number: int) -> None:
    """Lets a standard stream lead nowhere: what it could not write, the interpreter would try to write again at its
    end, and say so with a status of its own."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, number)
    os.close(null)


def _end(said: str) -> None:
    """Ends the command with a line on standard error, where that can be written, and exit status 2."""
    with contextlib.suppress(OSError):
        print(f"secretproxy: {said}", file=sys.stderr, flush=True)
    sys.exit(2)


def _fault(error: Exception) -> str:
    """Describes an error that no command expects: its class and where it came from. Its text can hold a value."""
    own = os.sep + "secretproxy" + os.sep
    frames = [
        f"{name.rpartition(own)[2]}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if own in (name := frame.f_code.co_filename)
    ]
    return (
        f"unexpected {type(error).__name__} in {', '.join(frames[-4:])}: this is a fault of secretproxy {__version__}; "
        "report it with this line (`python -X dev -m secretproxy` shows the traceback)"
    )


def _run() -> None:
    """Runs the command line, and ends as it does once its output is written. Raises OSError where that cannot be."""
    _open_standard_streams()
    _name_output()
    try:
        app(prog_name="secretproxy")
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        sys.stdout.flush()
        raise


def main() -> None:
    """Runs the command line; a ConfigError, a file that cannot be used, and what no command expects are one line on
    stderr and exit status 2.

    A reader of the output that went away, as `head` does, ends a command with what SIGPIPE would: 1 says that something
    was found."""
    try:
        _run()
    except BrokenPipeError:
        _give_up(1)
        sys.exit(_READER_GONE)
    except ConfigError as error:
        _end(str(error))
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        _give_up(1)
        _end(f"{named}{error.strerror or type(error).__name__}")
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        _end(_fault(error))
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            _give_up(2)
