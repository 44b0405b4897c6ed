#!/bin/sh
# Sets up and passes the tests.
#   ./test.sh          build and run every test
#   ./test.sh --full   also: the format and clang-tidy; every test built by clang, under AddressSanitizer
#                      + UBSan and under ThreadSanitizer; everything compiled for arm64; each fuzzer
#                      for FUZZ_SECONDS (60); and the line coverage, 85 % at least
set -eu
cd "$(dirname "$0")"
jobs="$(nproc)"

say() { printf '\n== %s\n' "$*"; }

run_tests() { # $1: preset
    say "tests: $1"
    ./setup.sh "$1"
    ctest --test-dir "build/$1" --output-on-failure -j "$jobs"
}

check_sources() { # by the compile commands of the preset clang
    say "clang-format"
    find src include tools tests bench examples -name '*.[ch]' -print0 |
        xargs -0 clang-format --dry-run -Werror
    say "clang-tidy: src, tools, examples"
    find src tools examples -name '*.c' -print0 |
        xargs -0 -P "$jobs" -n 4 clang-tidy -p build/clang --quiet 2>build/clang/tidy.log ||
        { tail -n 20 build/clang/tidy.log; return 1; }
}

seed() { # $1: a fuzzer, $2 …: files that it starts from
    name="build/fuzz/seeds/$1"
    shift
    mkdir -p "$name"
    for file in "$@"; do
        cp "$file" "$name/$(printf '%s' "$file" | tr / _)"
    done
}

seed_behind() { # $1: a fuzzer, $2: the bytes that its input begins with, for printf, $3 …: files
    name="build/fuzz/seeds/$1" prefix="$2"
    shift 2
    mkdir -p "$name"
    for file in "$@"; do
        { printf "%b" "$prefix"; cat "$file"; } >"$name/$(printf '%s' "$file" | tr / _)"
    done
}

byte() { printf '\\0%03o' "$1"; } # for printf %b

seed_indexed() { # the index's size, the index, the tokens
    tokens=build/fuzz/tokens text=tests/data/tokenizers/bert.vocab.txt
    build/release/bin/deepseek-tokenize encode --tokenizer tests/data/tokenizers/unigram.json \
        -o "$tokens" "$text" "$text" >build/fuzz/tokens.log 2>&1
    size="$(wc -c <"$tokens.idx")"
    cat "$tokens.idx" "$tokens.bin" >"$tokens.both"
    seed_behind fuzz_indexed "$(byte $((size % 256)))$(byte $((size / 256)))" "$tokens.both"
}

seed_tokenizer() { # three times the length of the text at the end, and which format it is
    for file in tests/data/tokenizers/bert.json tests/data/tokenizers/unigram.json; do
        { cat "$file"; printf 'a text, un mot'; } >"build/fuzz/$(basename "$file")"
        seed_behind fuzz_tokenizer "$(byte $((3 * 14)))" "build/fuzz/$(basename "$file")"
    done
    {
        printf '\004\000\000\000' # the longest piece; then score, length and bytes of each
        for piece in '<unk>' '<s>' '</s>' ' ' a b ab ' ab'; do
            printf '\000\000\200\077%b\000\000\000%s' "$(byte ${#piece})" "$piece"
        done
        printf ' ab ba'
    } >build/fuzz/llama2c.bin
    seed_behind fuzz_tokenizer "$(byte $((3 * 6 + 1)))" build/fuzz/llama2c.bin
    seed_behind fuzz_tokenizer "$(byte $((3 * 5 + 2)))" tests/data/tokenizers/bert.vocab.txt
}

run_fuzzers() {
    ./setup.sh fuzz
    seed_indexed
    seed_tokenizer
    seed fuzz_config configs/*.yaml
    seed fuzz_model tests/data/goldens/*/config.json tests/data/goldens/quantised/*/config.json
    seed fuzz_quantised tests/data/goldens/quantised/seed_*/model.safetensors
    seed fuzz_gguf tests/data/gguf/*.gguf tests/data/tokenizers/bert.gguf
    seed fuzz_vocabulary tests/data/tokenizers/*.json tests/data/tokenizers/*.model \
        tests/data/tokenizers/*.txt tests/data/tokenizers/*.gguf
    seed fuzz_json_schema tests/data/grammars/*.json
    seed fuzz_gbnf tests/data/grammars/*.gbnf
    seed fuzz_tool_reader tests/data/answers/*.txt
    seed fuzz_safetensors tests/data/safetensors/*.safetensors
    seed fuzz_store tests/data/store/*.bin
    say "fuzzing, ${FUZZ_SECONDS:-60} s each"
    # a fixed seed: the same commit gives the same verdict; leave it out to search further
    export FUZZ_SECONDS="${FUZZ_SECONDS:-60}"
    find build/fuzz/fuzz -name 'fuzz_*' -type f -perm -100 -print0 | sort -z |
        xargs -0 -P "$jobs" -I{} sh -c '
            name="$(basename "{}")" log="build/fuzz/$(basename "{}").log"
            mkdir -p "build/fuzz/seeds/$name"
            if "{}" -seed=1 -max_total_time="$FUZZ_SECONDS" -timeout=10 -max_len=4096 -verbosity=0 \
                -print_final_stats=1 "build/fuzz/seeds/$name" >"$log" 2>&1; then
                sed -n "s/^stat::number_of_executed_units: */$name: inputs tried: /p" "$log"
            else
                cat "$log"
                exit 255
            fi'
}

measure_coverage() {
    run_tests coverage
    say "coverage"
    gcovr --root . --object-directory build/coverage --filter src/ --print-summary \
        --fail-under-line 85 --output build/coverage/report.txt
}

./setup.sh release
if [ "${1:-}" = --full ]; then
    ./setup.sh --packages deploy/debian-packages-full.txt
    run_tests clang
    check_sources
    say "arm64: compiled"
    ./setup.sh arm64
    run_tests asan
    run_tests tsan
    run_fuzzers
    measure_coverage
fi
run_tests release
