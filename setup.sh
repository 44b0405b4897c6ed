#!/bin/sh
# Installs the Debian packages that the build needs, if any is missing, and builds the project.
#   ./setup.sh [preset]        preset: release (default), debug, asan; with more packages clang, tsan,
#                               coverage, fuzz, arm64
#   ./setup.sh --packages FILE installs the packages listed in FILE and stops
# As root, or as a user with sudo. Run again at will: what is done is skipped.
set -eu
cd "$(dirname "$0")"

say() { printf '%s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1; then sudo "$@"
    else say "setup.sh: root is needed for: $*"; say "Run this script as root, or install sudo."; exit 1
    fi
}

install_packages() { # $1: a list, one package a line, # comments
    missing=""
    for package in $(sed 's/#.*//' "$1"); do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
            missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 || {
        say "setup.sh: these packages are missing, and there is no apt-get to install them:$missing"
        exit 1
    }
    say "Installing:$missing"
    as_root apt-get -o DPkg::Lock::Timeout=120 update -q >&2
    # shellcheck disable=SC2086 # a list of words is meant
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install -y -q \
        --no-install-recommends $missing >&2
}

if [ "${1:-}" = --packages ]; then
    install_packages "$2"
    exit 0
fi
preset="${1:-release}"
install_packages deploy/debian-packages.txt
case "$preset" in
release | debug | asan) ;;
*) install_packages deploy/debian-packages-full.txt ;;
esac
[ "build/$preset/build.ninja" -nt CMakePresets.json ] || cmake --preset "$preset" >&2
cmake --build "build/$preset" >&2
