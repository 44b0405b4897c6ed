#!/bin/sh
# train_step.sh for BERT-large at 4 x 128 and the demo model at 16 x 256.
#   bench/train_step_others.sh [--json] [--save FILE] [--rounds N]
exec "$(dirname "$0")/train_step.sh" "$@" bert-large 4 128 fp32 bert-large 4 128 bf16 demo 16 256 fp32 demo 16 256 bf16
