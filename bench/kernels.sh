#!/bin/sh
# Single kernels (matrix products, attention, norms, projection with cross-entropy, AdamW) against the
# machine's arithmetic or memory, PyTorch's op, and on small sizes the reference kernel.
#   bench/kernels.sh [--json] [--save FILE] [--rounds N] [PATTERN]
# The cases are in kernels.txt and kernels_small.txt; PATTERN (of grep -E) chooses among them, e.g.
# bench/kernels.sh 'attention|adamw'. SECONDS_EACH: how long one measurement lasts. PYTHON names an
# interpreter with torch.
. "$(dirname "$0")/script.sh"
pattern="${1:-.}" each="${SECONDS_EACH:-0.3}"
peer=""
has_peer torch && peer=1
limits
cases() { # $1: a file; the whole of it as often as there are rounds
    for _ in $(seq "${rounds:-3}"); do grep -v '^#' "$1" | grep -E -e "$pattern" || :; done
}
run() { # $1: a file of cases, then the programs
    file="$1"
    shift
    say "$file"
    cases "$file" | "$programs/bench_in_turn" "$@" \
        ${peer:+++ "$python" bench/peers/pytorch_kernels.py --threads "$threads" --seconds "$each"} >>"$lines" ||
        say "$file failed"
}
ours="$programs/bench_kernels --threads $threads --seconds $each"
# shellcheck disable=SC2086 # words are meant
run bench/kernels.txt $ours
# shellcheck disable=SC2086
run bench/kernels_small.txt $ours ++ $ours --device ref
show kernels
