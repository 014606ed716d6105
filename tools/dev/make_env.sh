#!/usr/bin/env bash
# Find a Python 3.11 that runs and hand over to make_env.py, which makes the virtual environment.
#
# Usage: tools/dev/make_env.sh        (`make env` calls it)
# Environment: PYTHON  the Python 3.11 to use; by default python3.11 or python3 from the PATH
#              VENV    the virtual environment; by default .venv in the clone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
VENV="${VENV:-.venv}"

# Run it: on the PATH may stand the shim of a version manager that has no such version.
is_311() {
    [ "$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null </dev/null)" = 3.11 ]
}

if [ -n "${PYTHON:-}" ]; then
    if ! is_311 "$PYTHON"; then
        echo "[scalenet_mm] error: PYTHON=$PYTHON is not a Python 3.11 that runs." >&2
        echo "    Give the path of one: make PYTHON=/path/to/python3.11 ..." >&2
        exit 1
    fi
    python="$PYTHON"
elif is_311 "$VENV/bin/python"; then
    python="$VENV/bin/python"
else
    python=
    for candidate in python3.11 python3 python /usr/bin/python3.11 /usr/local/bin/python3.11; do
        if is_311 "$candidate"; then
            python="$candidate"
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "[scalenet_mm] error: no Python 3.11 found (tried python3.11, python3 and python)." >&2
        echo "    Install it with its headers and venv, e.g." >&2
        echo "        sudo apt-get install python3.11 python3.11-dev python3.11-venv   # Debian, Ubuntu" >&2
        echo "        uv python install 3.11   or   pyenv install 3.11" >&2
        echo "    or name yours: make PYTHON=/path/to/python3.11 ..." >&2
        exit 1
    fi
fi

exec "$python" tools/dev/make_env.py --venv "$VENV"
