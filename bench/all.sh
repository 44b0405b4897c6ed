#!/bin/sh
# Every figure, one script after another, on an otherwise idle machine: some hours with the peer,
# most of them its. Tables and lines of JSON go to bench/results/DATE-CPUMODEL.txt as well.
#   bench/all.sh [--rounds N] [SCRIPT …]      default: every script of this folder that has a figure
# PYTHON names an interpreter with torch and transformers; THREADS the number of threads.
set -eu
cd "$(dirname "$0")/.."
rounds=""
if [ "${1:-}" = --rounds ]; then
    rounds="--rounds ${2:?--rounds needs a number}"
    shift 2
fi
[ $# -gt 0 ] || set -- train_step train_step_others memory kernels startup decode prefill resident tokenize allreduce
python="${PYTHON:-python3}"
cpu="$(lscpu 2>/dev/null | sed -n 's/^Model name: *//p' | head -n 1)"
mkdir -p bench/results
file="bench/results/$(date +%Y-%m-%d)-$(printf '%s' "${cpu:-unknown}" | tr -cs 'A-Za-z0-9\n' '-').txt"
{
    echo "date       $(date -u '+%Y-%m-%d %H:%M UTC')"
    echo "processor  ${cpu:-unknown}, $(nproc) cores, ${THREADS:-$(nproc)} threads"
    echo "caches     $(lscpu 2>/dev/null | sed -n 's/^L3 cache: */L3 /p')"
    echo "memory     $(awk '/^MemTotal/ { printf "%.1f GB", $2 * 1024 / 1e9 }' /proc/meminfo)"
    echo "system     $(uname -sr), $(sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release)"
    echo "load       $(cut -d ' ' -f 1-3 /proc/loadavg) before the start"
    echo "ours       $(build/release/bin/deepseek-train --version 2>/dev/null), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
    echo "compiler   $(cc --version | head -n 1)"
    echo "oneDNN     $(dpkg-query -W -f='${Version}' libdnnl-dev 2>/dev/null || echo unknown)"
    echo "peer       $("$python" -c 'import platform, torch, transformers
print(f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}")' 2>/dev/null || echo none)"
    echo
} | tee "$file"
for script; do
    echo "==== bench/$script.sh"
    echo "==== bench/$script.sh" >>"$file"
    # shellcheck disable=SC2086 # two words or none
    "bench/$script.sh" $rounds --save "$PWD/$file" || echo "bench/$script.sh failed" | tee -a "$file"
done
echo "written to $file"
