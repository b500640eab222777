#!/bin/sh
# Makes .venv with a Python that works, the locked packages and this project. Run by make when one of its inputs has changed.
set -eu
cd "$(dirname "$0")/.."

works() {
    # A shim may exist and not run: what counts is that it starts, is new enough and can make an environment.
    "$1" -c 'import ensurepip, ssl, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2])' >/dev/null 2>&1
}

find_python() {
    # 3.12 and newer first: for those there is a wheel with PostgreSQL itself.
    for version in 3.13 3.12 3.14 3.11; do
        for candidate in "python$version" "$HOME/.pyenv/versions/$version".*/bin/python3 \
            "/usr/bin/python$version" "/usr/local/bin/python$version" "/opt/homebrew/bin/python$version"; do
            path=$(command -v "$candidate" 2>/dev/null) || continue
            if works "$path"; then echo "$path"; return; fi
        done
    done
    for candidate in python3 python; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        if works "$path"; then echo "$path"; return; fi
    done
    return 1
}

if [ -n "${PYTHON:-}" ]; then
    python=$PYTHON
    works "$python" || { echo "bootstrap: PYTHON=$python does not run or is older than 3.11" >&2; exit 1; }
else
    python=$(find_python) || {
        echo "bootstrap: no working Python >= 3.11 with venv found: install one (Debian: apt-get install python3 python3-venv)" >&2
        exit 1
    }
fi

if ! .venv/bin/python -c '' >/dev/null 2>&1 || [ -n "${PYTHON:-}" ]; then
    echo "bootstrap: making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
fi
echo "bootstrap: installing the locked packages"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/dev.lock
# Wheels alone: where there is none, hypothesis fuzzes without it.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r requirements/fuzz.lock >/dev/null 2>&1 ||
    echo "bootstrap: no wheel of atheris for this Python and machine: make fuzz goes without"

# The extra `parquet`. Wheels alone: where there is none, Parquet is refused as where it was not installed.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r requirements/parquet.lock >/dev/null 2>&1 ||
    echo "bootstrap: no wheel of pyarrow for this Python and machine: Parquet is not tested"

# The console's tests in a browser: only where there is one.
if command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r requirements/browser.lock >/dev/null 2>&1 ||
        echo "bootstrap: no wheel of playwright for this Python and machine: the console is not tested in a browser"
fi

# setup.py compiles the hot path where a C compiler works. A stale build must not shadow a changed source.
find src -name '*.so' -delete
rm -rf build
echo "bootstrap: installing secretproxy"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
.venv/bin/python -c 'from secretproxy.session.stream import compiled; print("bootstrap: hot path", "compiled" if compiled() else "in pure Python")'
touch .venv/.stamp
