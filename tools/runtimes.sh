#!/bin/sh
# Creates .venv-runtimes, the environment with PyTorch in which the slow tests run
# sentence-transformers. Does nothing if it exists and is up to date.
#
#   PYTHON=python3.12 sh tools/runtimes.sh
#
# It is a separate environment because PyTorch is large and kdkeras does not need it.
set -eu

venv=.venv-runtimes
# PyTorch is installed first; together with the others it would include CUDA, several gigabytes.
torch="torch==2.13.0"
others="sentence-transformers==6.2.0 transformers==5.24.0"

[ "$(cat "$venv/.installed" 2>/dev/null)" != "$(pwd) $torch $others" ] || exit 0

rm -rf "$venv"
"${PYTHON:-.venv/bin/python}" -m venv "$venv"
pip() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile "$@"
}
pip "$torch"
# shellcheck disable=SC2086  # Two packages, two words.
pip $others
echo "$(pwd) $torch $others" >"$venv/.installed"
