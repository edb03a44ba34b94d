#!/usr/bin/env bash
# Runs an exported student on emulated ARM processors and compares it with this machine.
#
#   PYTHON=.venv/bin/python bash export/arm/check.sh FOLDER [--per-language 4] [--cpu cortex-a53 ...]
#
# FOLDER is what `kdkeras export` wrote; the options are those of compare.py. PYTHON is one with
# ai-edge-litert, numpy and the student's tokenizer package (python3 if not given).
#
# An aarch64 Python, its wheels and QEMU 10 are unpacked, not installed, so root is not needed;
# they are kept in ${XDG_CACHE_HOME:-~/.cache}/kdkeras (about 250 MB) for the next run. Debian
# packages come from the mirror that this machine's apt is configured for, or DEBIAN_MIRROR=URL.
#
# Exit status: 0 equal, 1 a difference is too large, 2 something is missing.
set -euo pipefail

# QEMU 7.2, Debian bookworm's, crashes in XNNPACK; trixie has QEMU 10 and Python 3.13.
release=trixie
python_version=3.13
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kdkeras
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

fail() {
    echo "export/arm/check.sh: error: $1" >&2
    exit 2
}

debian_mirror() {
    if [ -n "${DEBIAN_MIRROR:-}" ]; then
        echo "$DEBIAN_MIRROR"
    else
        apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' \
            'Component: main' 'Codename: '"$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" | head -n 1
    fi
}

# apt with a state of its own, for another release and architecture; this machine's stays as it is.
private_apt() {
    local architecture=$1 state=$2
    shift 2
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/none"
    : >"$state/status"
    echo "deb [arch=$architecture signed-by=$keyring] $mirror $release main" >"$state/sources.list"
    apt-get -q -q -y --no-install-recommends \
        -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::Etc::Preferences="$state/none/-" -o Dir::Etc::PreferencesParts="$state/none" \
        -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status" \
        -o Dir::Cache="$state/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User= \
        -o APT::Architecture="$architecture" -o APT::Architectures::="$architecture" \
        -o Acquire::Languages=none "$@" >&2 ||
        fail "apt-get must be able to fetch Debian $release for $architecture. Received: it failed, see above. Check the network and the mirror, $mirror."
}

download() {
    local architecture=$1 state=$2
    shift 2
    private_apt "$architecture" "$state" update
    private_apt "$architecture" "$state" install --download-only "$@"
}

build() {
    local into=$1 native
    for tool in apt-get dpkg-deb tar; do
        command -v "$tool" >/dev/null || fail "$tool must be there (Debian or Ubuntu). Received: none in PATH."
    done
    [ -r "$keyring" ] || fail "Debian's keys must be there. Received: no $keyring. apt-get install debian-archive-keyring."
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || fail "A Debian mirror must be known. Received: none in apt's configuration. Run apt-get update, or set DEBIAN_MIRROR=URL."
    native=$(dpkg --print-architecture)
    echo "Unpacking Debian $release's aarch64 Python and QEMU into $cache (once)" >&2
    download "$native" "$into/apt-qemu" qemu-user &
    download arm64 "$into/apt-root" "python$python_version" libstdc++6
    wait $! || exit 2
    mkdir -p "$into/root/usr/bin" "$into/root/usr/sbin" "$into/root/usr/lib" "$into/qemu"
    ln -s usr/bin usr/sbin usr/lib "$into/root/"
    for package in "$into"/apt-root/cache/archives/*.deb; do
        dpkg-deb --extract "$package" "$into/root"
    done
    dpkg-deb --fsys-tarfile "$into"/apt-qemu/cache/archives/qemu-user_*.deb |
        tar --extract --directory "$into/qemu" ./usr/bin/qemu-aarch64
    "$python" -m pip install -qq --disable-pip-version-check --no-compile --target "$into/site" \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
        --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
        --implementation cp --python-version "$python_version" --only-binary=:all: \
        "ai-edge-litert==$litert" numpy tokenizers sentencepiece >&2 ||
        fail "pip must be able to fetch the aarch64 wheels. Received: it failed, see above. Check the network and $python."
    rm -rf "$into/apt-qemu" "$into/apt-root" "$into/root/usr/share/doc"
}

[ $# -ge 1 ] || fail "A folder must be given. Received: no argument. Run: bash export/arm/check.sh FOLDER."
litert=$("$python" -c 'import numpy; from importlib.metadata import version as v; print(v("ai-edge-litert"))' 2>/dev/null) ||
    fail "PYTHON must have ai-edge-litert and numpy. Received: $python. pip install ai-edge-litert numpy tokenizers sentencepiece."

# The same runtime on both sides; the number changes with what is unpacked.
layout=arm-$release-$litert-1
if [ ! -d "$cache/$layout" ]; then
    mkdir -p "$cache"
    unfinished=$(mktemp -d "$cache/.$layout.XXXXXX")
    trap 'rm -rf "$unfinished"' EXIT
    build "$unfinished"
    # Another run may have finished meanwhile; its root is as good.
    mv -T "$unfinished" "$cache/$layout" 2>/dev/null || [ -d "$cache/$layout" ]
fi
"$python" "$here/compare.py" --root "$cache/$layout" --python "python$python_version" "$@"
