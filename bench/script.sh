# Sourced by the scripts of this folder, which are called as
#     bench/NAME.sh [--json] [--save FILE] [--rounds N] [its own arguments]
# --json      prints the lines of JSON that were measured instead of a table
# --save FILE appends table and lines to FILE as well
# --rounds N  how often ours and the peers take turns; the table shows medians
# PYTHON names an interpreter with torch (and transformers); without it there are no peers.
# THREADS is the number of threads of everything; default: all cores.
# shellcheck shell=sh disable=SC2034
set -eu
called_from="$PWD" script="$(cd "$(dirname "$0")" && pwd)/$(basename "$0")"
cd "$(dirname "$0")/.."
programs=build/release/bench
json="" save="" rounds=""
while [ $# -gt 0 ]; do
    case "$1" in
    --json) json=1; shift ;;
    --save) save="${2:?--save needs a file}"; shift 2
        case "$save" in /*) ;; *) save="$called_from/$save" ;; esac ;;
    --rounds) rounds="${2:?--rounds needs a number}"; shift 2 ;;
    -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$script"; exit 0 ;;
    *) break ;;
    esac
done
[ -x "$programs/bench_in_turn" ] || ./setup.sh release
threads="${THREADS:-$(nproc)}"
python="${PYTHON:-python3}"
export OMP_NUM_THREADS="$threads" TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
lines="$work/lines"
: >"$lines"

say() { printf '%s\n' "$*" >&2; }

# has_peer MODULE…: whether the peer can run; says so where it cannot.
has_peer() {
    for module in "$@"; do
        "$python" -c "import $module" >/dev/null 2>&1 || {
            say "no peer: $python has no module $module (PYTHON=interpreter names another one)"
            return 1
        }
    done
}

# limits [SECONDS]: the machine's own limits, into the lines.
limits() {
    say "measuring the machine"
    "$programs/bench_machine_limits" --json --threads "$threads" --seconds "${1:-4}" >>"$lines"
}

# show TABLE: what was measured, as a table made by tables/TABLE.awk or as lines.
show() {
    awk -f bench/tables/json.awk -f "bench/tables/$1.awk" "$lines" >"$work/table"
    if [ -n "$json" ]; then cat "$lines"; else cat "$work/table"; fi
    [ -z "$save" ] || { cat "$work/table"; echo; cat "$lines"; echo; } >>"$save"
}
