#!/bin/sh
# Sets up and passes the tests.
#   ./test.sh          build and run every test
#   ./test.sh --full   also under AddressSanitizer + UBSan and ThreadSanitizer, with clang, a minute
#                      of each fuzzer, and the line coverage
set -eu
cd "$(dirname "$0")"

./setup.sh release
jobs="$(nproc)"
if [ "${1:-}" = --full ]; then
    ./setup.sh --packages deploy/debian-packages-full.txt
    ./setup.sh asan
    ctest --test-dir build/asan --output-on-failure -j "$jobs"
    ./setup.sh fuzz
    for fuzzer in build/fuzz/fuzz/fuzz_*; do
        [ -x "$fuzzer" ] || continue
        echo "fuzzing: $fuzzer"
        # a fixed seed: the same commit gives the same verdict; leave it out to search further
        "$fuzzer" -seed=1 -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -max_len=4096 -verbosity=0 \
            -print_final_stats=1
    done
    ./setup.sh coverage
    ctest --test-dir build/coverage --output-on-failure -j "$jobs" >/dev/null
    gcovr --root . --object-directory build/coverage --filter src/ --print-summary \
        --output build/coverage/report.txt
fi
ctest --test-dir build/release --output-on-failure -j "$jobs"
