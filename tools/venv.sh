#!/bin/sh
# Creates a virtual environment with kdkeras. Does nothing if it exists and is up to date.
#
#   PYTHON=python3.12 sh tools/venv.sh .venv [EXTRA]
#
# It is created again if its Python is broken, unsupported or not the one given by PYTHON, or if
# the folder was moved. Packages are installed again when pyproject.toml changes.
set -eu

venv=$1
extra=${2:-}
supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
version='import sys; print(sys.version.split()[0], sys.base_prefix)'

fail() {
    echo "kdkeras: error: $1" >&2
    exit 1
}

is_supported() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c "$supported" >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_supported "$PYTHON" && echo "$PYTHON" && return
        fail "kdkeras needs Python 3.11, 3.12 or 3.13. Received: PYTHON=$PYTHON ($("$PYTHON" --version 2>&1 | head -n 1)). Name a supported one: make PYTHON=/path/to/python3.13 ..."
    fi
    for candidate in python3.13 python3.12 python3.11 python3; do
        is_supported "$candidate" && echo "$candidate" && return
    done
    fail "kdkeras needs Python 3.11, 3.12 or 3.13. Received: $(python3 --version 2>&1 | head -n 1) as python3. Install a supported one, or name it: make PYTHON=/path/to/python3.13 ..."
}

is_usable() {
    is_supported "$venv/bin/python" || return 1
    [ "$(cat "$venv/.made-in" 2>/dev/null)" = "$(pwd)" ] || return 1
    [ -z "${PYTHON:-}" ] || [ "$("$venv/bin/python" -c "$version")" = "$("$PYTHON" -c "$version" 2>&1)" ]
}

if ! is_usable; then
    python=$(find_python)
    echo "Creating $venv with $("$python" --version)" >&2
    rm -rf "$venv"
    "$python" -m venv "$venv" >&2 ||
        fail "Python's venv module must work. Received: $python -m venv failed, see above. Install it (Debian: apt install python3-venv)."
    pwd >"$venv/.made-in"
fi

stamp=$venv/.installed${extra:+-$extra}
if ! cmp -s pyproject.toml "$stamp"; then
    echo "Installing kdkeras${extra:+[$extra]} into $venv (including TensorFlow, about 2 GB; this takes some minutes)" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}" >&2 ||
        fail "pip must be able to install kdkeras. Received: pip failed, see above. Check the network and the disk's free space, then run the same command again."
    cp pyproject.toml "$stamp"
    # An environment with the extra also has the packages without it.
    cp pyproject.toml "$venv/.installed"
fi
