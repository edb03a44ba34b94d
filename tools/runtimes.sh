#!/bin/sh
# Makes .venv-runtimes, the Python with PyTorch that the slow tests run
# sentence-transformers in, and does nothing where that is there already.
#
#   PYTHON=python3.12 sh tools/runtimes.sh
#
# A Python of its own, because PyTorch is large and kdkeras has no use for it.
set -eu

venv=.venv-runtimes
# PyTorch first: with the others it would come with CUDA, some gigabytes.
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
