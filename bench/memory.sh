#!/bin/sh
# Peak memory of training steps, each in a process of its own: ours against PyTorch's, bf16 against
# fp32, and a table of recomputation and offloading: memory against the time of a step.
#   bench/memory.sh [--json] [--save FILE] [--rounds N] [MODEL BATCH SEQ_LEN …]
# Default: GPT-2 124 M at 4 x 256 and 4 x 1024, BERT-large at 4 x 128, the demo model at 16 x 256. The
# first of them with the longest sequences, or CHOICES="MODEL BATCH SEQ_LEN PRECISION", is used for
# the table of recomputation and offloading. PYTHON names an interpreter with torch and transformers.
# VARIANTS="eager" leaves torch.compile out; PEER_BF16=no leaves out PyTorch in bf16, which takes minutes
# a step on processors without bf16 instructions.
. "$(dirname "$0")/script.sh"
choices="${CHOICES:-gpt2-124m 4 1024 bf16}"
[ $# -gt 0 ] || set -- gpt2-124m 4 256 gpt2-124m 4 1024 bert-large 4 128 demo 16 256
peer=""
has_peer torch transformers && peer=1
limits 2
while [ $# -ge 3 ]; do
    for precision in fp32 bf16; do
        say "$1, $2 x $3, $precision"
        "$programs/bench_train_step" "$1" "$2" "$3" "$precision" --threads "$threads" --steps 1 >>"$lines" ||
            say "$1, $2 x $3, $precision failed"
        [ -n "$peer" ] || continue
        [ "$precision" = fp32 ] || [ "${PEER_BF16:-yes}" = yes ] || continue
        for variant in ${VARIANTS:-eager compiled}; do
            "$python" bench/peers/pytorch_train.py "$1" "$2" "$3" "$precision" --threads "$threads" --steps 1 \
                --variants "$variant" | grep '^{' >>"$lines" || say "$variant PyTorch gave no figure"
        done
    done
    shift 3
done
printf '{"table": "choices"}\n' >>"$lines"
mkdir "$work/offload"
for recompute in none selective full; do
    for offload in none host file; do
        say "recompute $recompute, offload $offload"
        # shellcheck disable=SC2086 # four words are meant
        "$programs/bench_train_step" $choices --threads "$threads" --steps "${rounds:-3}" \
            --recompute "$recompute" --offload "$offload" --offload-path "$work/offload" >>"$lines" ||
            say "recompute $recompute, offload $offload failed"
    done
done
show memory
