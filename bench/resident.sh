#!/bin/sh
# Resident bytes of a process that serves a model, against weights and cache in use; and how long the
# server takes to be ready for a model in the page cache.
#   bench/resident.sh [--json] [--save FILE] [--rounds N] [SHAPE …]     default: smollm2-135m llama-1b
# FOLDER: where random models of the shapes are written and kept. BITS: of the weights, default 16, 8 and 4.
. "$(dirname "$0")/script.sh"
alone=1
. bench/generate.sh
[ $# -gt 0 ] || set -- smollm2-135m llama-1b
for shape; do
    for bits in ${BITS:-16 8 4}; do
        in_turn "$shape" "$bits" 1 "prefill 512" "decode 64" resident
        for type in $(ours_of "$bits"); do
            for round in $(seq "${rounds:-3}"); do
                say "start $round of ${rounds:-3}, $type"
                # the server ends by itself when nobody reads what it prints
                "$programs/bench_startup" "$shape, $bits bits, $type" "serving" -- timeout 10 build/release/bin/deepseek-serve \
                    --model "$models/$shape" --dtype "$type" --port 0 2>/dev/null >>"$lines" || :
            done
        done
    done
done
show resident
