"""Compiles the hot path (framing, session, detection, the log's lines) to C with mypyc, and the reading of sockets.

Everything else about the build stands in pyproject.toml. SECRETPROXY_COMPILE decides:

    unset   compile; where there is no C compiler or the build fails, the same source runs as pure Python
    1       compile; a build that fails fails the installation
    0       pure Python

`secretproxy --version` says which of the two is installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from multiprocessing.pool import ThreadPool

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

WANTED = os.environ.get("SECRETPROXY_COMPILE", "")
REQUIRED = WANTED == "1"
if WANTED not in ("", "0", "1"):
    sys.exit(f"SECRETPROXY_COMPILE={WANTED}: use 1 (compile or fail), 0 (pure Python), or leave it unset")

COMPILED = [
    "src/secretproxy/wire/digest.py",
    "src/secretproxy/wire/errors.py",
    "src/secretproxy/wire/messages.py",
    "src/secretproxy/wire/redacted.py",
    "src/secretproxy/wire/types.py",
    "src/secretproxy/audit/chain.py",
    "src/secretproxy/audit/durable.py",
    "src/secretproxy/audit/groups.py",
    "src/secretproxy/audit/journal.py",
    "src/secretproxy/audit/masking.py",
    "src/secretproxy/audit/rows.py",
    "src/secretproxy/audit/waiting.py",
    "src/secretproxy/detect/arguments.py",
    "src/secretproxy/detect/calls.py",
    "src/secretproxy/detect/detector.py",
    "src/secretproxy/detect/functions.py",
    "src/secretproxy/detect/literals.py",
    "src/secretproxy/detect/templates.py",
    "src/secretproxy/detect/verdict.py",
    "src/secretproxy/ops/value.py",
    "src/secretproxy/proxy/client/endpoint.py",
    "src/secretproxy/proxy/client/handshake.py",
    "src/secretproxy/proxy/client/orphan.py",
    "src/secretproxy/proxy/client/relay.py",
    "src/secretproxy/proxy/client/session_log.py",
    "src/secretproxy/proxy/client/stage.py",
    "src/secretproxy/session/backend.py",
    "src/secretproxy/session/call_path.py",
    "src/secretproxy/session/events.py",
    "src/secretproxy/session/frontend.py",
    "src/secretproxy/session/greeting.py",
    "src/secretproxy/session/interpreter.py",
    "src/secretproxy/session/names.py",
    "src/secretproxy/session/pipeline.py",
    "src/secretproxy/session/plain.py",
    "src/secretproxy/session/quoted.py",
    "src/secretproxy/session/reads.py",
    "src/secretproxy/session/session.py",
    "src/secretproxy/session/statements.py",
    "src/secretproxy/session/states.py",
    "src/secretproxy/session/step.py",
    "src/secretproxy/session/stream.py",
    "src/secretproxy/session/testimony.py",
    "src/secretproxy/session/walk.py",
]


def written_in_c(name: str) -> Extension:
    """Gives a module that is C already. One that cannot be compiled leaves the others in place: Python does without."""
    source = f"src/{name.replace('.', '/')}.c"
    headers = ["src/secretproxy/wire/_digest.h"]
    return Extension(name, [source], depends=headers, extra_compile_args=["-O3"], optional=not REQUIRED)


IN_C = [
    written_in_c("secretproxy.audit._rows"),
    written_in_c("secretproxy.detect._literals"),
    written_in_c("secretproxy.session._quoted"),
    written_in_c("secretproxy.session._walk"),
    written_in_c("secretproxy.wire._digest"),
    written_in_c("secretproxy.wire._messages"),
]
if sys.platform == "linux":
    # By epoll: elsewhere sockets are read by their transports.
    IN_C.append(written_in_c("secretproxy.proxy.transport._reading"))


class OptionalBuildExt(build_ext):
    """A missing or broken C compiler leaves the pure Python modules in place instead of failing the install."""

    def build_extensions(self) -> None:
        # One extension of many C files: a file a core, not one after the other.
        one = self.compiler.compile
        self.compiler.compile = lambda sources, **options: self._each(one, sources, options)
        super().build_extensions()

    @staticmethod
    def _each(compile_one: Callable[..., list[str]], sources: list[str], options: dict[str, object]) -> list[str]:
        with ThreadPool(os.cpu_count()) as pool:
            return [
                made
                for objects in pool.map(lambda source: compile_one([source], **options), sources)
                for made in objects
            ]

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            if REQUIRED:
                raise
            print(f"secretproxy: running as pure Python, the C build failed: {error}", file=sys.stderr)
            self.extensions = []


def extensions() -> list[object]:
    """Gives the modules to compile; translating them to C takes mypyc some twenty seconds."""
    # Metadata is asked for more than once before anything is built.
    if WANTED == "0" or not {"build_ext", "bdist_wheel", "editable_wheel"} & set(sys.argv):
        return []
    try:
        from mypyc.build import mypycify

        made = list(mypycify(["--ignore-missing-imports", *COMPILED], opt_level="2", debug_level="0", multi_file=True))
        for extension in made:
            # The modules call each other and nobody else does: by address then, not by tables of symbols.
            if sys.platform != "win32":
                # A list of its own: mypyc gives all of them one.
                extension.extra_compile_args = [*extension.extra_compile_args, "-fvisibility=hidden"]
    except (ImportError, SystemExit) as error:  # mypyc exits where mypy finds an error
        if REQUIRED:
            raise
        print(f"secretproxy: running as pure Python, mypyc gave up: {error}", file=sys.stderr)
        return []
    return [*made, *IN_C]


setup(ext_modules=extensions(), cmdclass={"build_ext": OptionalBuildExt})
