#!/usr/bin/env bash
# Runs an exported student on emulated ARM processors and compares the embeddings with this machine.
#
#   PYTHON=.venv/bin/python bash export/arm/check.sh FOLDER [--per-language 4] [--cpu cortex-a53 ...]
#
# FOLDER is a folder that `kdkeras export` wrote. The options are those of compare.py. PYTHON must
# have ai-edge-litert, numpy and the student's tokenizer package (default: python3).
#
# The script unpacks an aarch64 Python, its wheels and QEMU 10 into
# ${XDG_CACHE_HOME:-~/.cache}/kdkeras (about 250 MB) and reuses them in later runs. It installs
# nothing and needs no root permissions. Debian packages are downloaded from the mirror in the apt
# configuration of this machine, or from DEBIAN_MIRROR=URL.
#
# Exit status: 0 if all embeddings are equal within the limits, 1 if a difference is too large, 2 if
# a requirement is missing.
set -euo pipefail

# QEMU 7.2 of Debian bookworm crashes in XNNPACK. Debian trixie has QEMU 10 and Python 3.13.
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

# Runs apt-get with a separate state, for another release and architecture.
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
        fail "apt-get must be able to download Debian $release for $architecture. Received: a failure, see above. Check the network and the mirror, $mirror."
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
        command -v "$tool" >/dev/null || fail "$tool must be installed. Received: none in PATH. Run this script on Debian or Ubuntu."
    done
    [ -r "$keyring" ] || fail "Debian's keys must be installed. Received: no $keyring. Run: apt-get install debian-archive-keyring."
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
        fail "pip must be able to download the aarch64 wheels. Received: a failure, see above. Check the network and $python."
    rm -rf "$into/apt-qemu" "$into/apt-root" "$into/root/usr/share/doc"
}

[ $# -ge 1 ] || fail "A folder must be given. Received: no argument. Run: bash export/arm/check.sh FOLDER."
litert=$("$python" -c 'import numpy; from importlib.metadata import version as v; print(v("ai-edge-litert"))' 2>/dev/null) ||
    fail "PYTHON must have ai-edge-litert and numpy. Received: $python. Run: pip install ai-edge-litert numpy tokenizers sentencepiece."

# Both machines use the same runtime version. Increase the number if the contents change.
layout=arm-$release-$litert-1
if [ ! -d "$cache/$layout" ]; then
    mkdir -p "$cache"
    unfinished=$(mktemp -d "$cache/.$layout.XXXXXX")
    trap 'rm -rf "$unfinished"' EXIT
    build "$unfinished"
    # Another run may have created the same root in the meantime.
    mv -T "$unfinished" "$cache/$layout" 2>/dev/null || [ -d "$cache/$layout" ]
fi
"$python" "$here/compare.py" --root "$cache/$layout" --python "python$python_version" "$@"
