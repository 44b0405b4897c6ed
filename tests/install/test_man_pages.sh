#!/bin/bash
# Every program has a manual page that names every option of its --help and that groff reads without a
# word; the systemd unit is one, keeps the server from what it does not need, and starts it by options
# that exist. $1: the build folder.
set -eu
source=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

[ -d "$1/man" ] || { echo "SKIPPED: no pages are made for another processor"; exit 77; }
n=0
for program in "$1"/bin/deepseek-*; do
    name=$(basename "$program") page="$1/man/$(basename "$program").1"
    [ -s "$page" ] || fail "$name has no page"
    sed 's/\\-/-/g; s/\\e/\\/g' "$page" >"$dir/page"
    "$program" --help >"$dir/help"
    options=$(grep -oE '(^|[ ,])--?[a-zA-Z][a-z-]*' "$dir/help" | tr -d ' ,' | sort -u)
    [ "$(echo "$options" | wc -l)" -ge 5 ] || fail "$name: --help lists no options"
    for option in $options; do
        grep -qE -- "(^|[^a-z-])$option([^a-z-]|\$)" "$dir/page" || fail "$name: its page lacks $option"
    done
    # each option of the list is an item of its own
    items=$(grep -cE '^ {1,6}-' "$dir/help")
    [ "$(grep -c '^\.TP' "$page")" -ge "$items" ] || fail "$name: $items options, fewer items"
    for section in NAME SYNOPSIS DESCRIPTION OPTIONS "SEE ALSO"; do
        grep -q "^\.SH $section\$" "$page" || fail "$name: no section $section"
    done
    if command -v groff >/dev/null; then
        LC_ALL=C.UTF-8 groff -man -K utf8 -T utf8 -ww "$page" >"$dir/shown" 2>"$dir/said" || fail "$name: $(cat "$dir/said")"
        [ ! -s "$dir/said" ] || fail "$name: groff says $(cat "$dir/said")"
        [ "$(wc -l <"$dir/shown")" -ge 30 ] || fail "$name: nearly nothing is shown"
    fi
    if command -v mandoc >/dev/null; then
        mandoc -T lint -W error "$page" >"$dir/said" || fail "$name: mandoc says $(cat "$dir/said")"
    fi
    n=$((n + 1))
done
[ "$n" -eq "$(ls "$source"/tools/deepseek-*.c | wc -l)" ] || fail "$n pages"
echo "$n pages"

unit="$source/deploy/systemd/deepseek-serve.service"
for option in $(grep -ohE -- '--[a-z-]+' "$source/deploy/systemd/deepseek-serve.default" <(grep '^ExecStart' "$unit")); do
    "$1/bin/deepseek-serve" --help | grep -q -- "$option " || fail "the unit uses $option, which is none"
done
for line in DynamicUser=yes NoNewPrivileges=yes ProtectSystem=strict ProtectHome=yes CapabilityBoundingSet= \
    CacheDirectory=deepseek Environment=XDG_CACHE_HOME=%C/deepseek; do
    grep -qx "$line" "$unit" || fail "the unit lacks $line"
done
if command -v systemd-analyze >/dev/null; then
    build=$(cd "$1" && pwd)
    sed "s|@BINDIR@|$build/bin|" "$unit" >"$dir/deepseek-serve.service"
    systemd-analyze verify --man=no --recursive-errors=no "$dir/deepseek-serve.service" >"$dir/said" 2>&1 || fail "$(cat "$dir/said")"
    ! grep -i "deepseek-serve.service" "$dir/said" || fail "the unit"
    exposure=$(systemd-analyze security --offline=yes "$dir/deepseek-serve.service" 2>/dev/null |
        sed -n 's/.*Overall exposure level[^:]*: \([0-9.]*\).*/\1/p')
    [ -z "$exposure" ] || awk -v e="$exposure" 'BEGIN { exit !(e <= 2.0) }' || fail "exposure $exposure of 10"
    echo "the unit: exposure ${exposure:-not told}"
fi
