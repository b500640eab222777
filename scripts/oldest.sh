#!/bin/sh
# Makes .oldest: the oldest Python that is promised, with the locked packages that the proxy runs on. Tests run on it what differs
# between versions of Python. Where none is found it says so and ends with status 0, or 1 with --needed.
set -eu
cd "$(dirname "$0")/.."
oldest=$(sed -n 's/^requires-python = ">=\([0-9.]*\)"$/\1/p' pyproject.toml)

skip() {
    echo "oldest: $1: tests on Python $oldest are skipped" >&2
    [ "${needed:-}" = "" ] || exit 1
    exit 0
}

works() {
    "$1" -c "import ensurepip, ssl, sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$oldest')" >/dev/null 2>&1
}

find_python() {
    for candidate in ${OLDEST:-} "python$oldest" "$HOME/.pyenv/versions/$oldest".*/bin/python3 \
        "/usr/bin/python$oldest" "/usr/local/bin/python$oldest" "/opt/homebrew/bin/python$oldest"; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        if works "$path"; then echo "$path"; return; fi
    done
    return 1
}

if [ "${1:-}" = "--needed" ]; then needed=1; fi
if [ -z "${needed:-}" ] && works .venv/bin/python; then
    # All tests run on it.
    exit 0
fi
if works .oldest/bin/python && [ .oldest/.stamp -nt requirements/run.lock ]; then
    exit 0
fi
python=$(find_python) || skip "no working Python $oldest with venv was found (OLDEST=...)"
rm -rf .oldest
"$python" -m venv .oldest >/dev/null 2>&1 || skip "$python makes no environment"
if ! .oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --only-binary :all: -r requirements/run.lock >.oldest/pip.log 2>&1; then
    reason=$(grep '^ERROR' .oldest/pip.log | tail -1)
    rm -rf .oldest
    skip "requirements/run.lock cannot be installed for $python (${reason:-pip failed})"
fi
touch .oldest/.stamp
