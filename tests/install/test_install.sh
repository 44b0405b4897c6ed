#!/bin/bash
# What `cmake --install` leaves is whole, and right wherever it lies: programs outside this tree build
# against it by pkg-config and by CMake and run, the tools run from it, and the library exports the
# public names alone.
# $1: the build folder.
set -eu
build=$(cd "$1" && pwd)
source=$(cd "$(dirname "$0")/../.." && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }
cached() { sed -n "s/^$1:[A-Z]*=//p" "$build/CMakeCache.txt"; }

# installed in one place, used in another: no path of the first may matter
cmake --install "$build" --prefix "$dir/first" >"$dir/log" || fail "$(cat "$dir/log")"
prefix=$dir/moved
mv "$dir/first" "$prefix"
library=$(find "$prefix" -name libdeepseek.so)
[ -L "$library" ] || fail "libdeepseek.so is not a link to a version"
libdir=$(dirname "$library")
export LD_LIBRARY_PATH=$libdir PKG_CONFIG_PATH=$libdir/pkgconfig

cc=$(cached CMAKE_C_COMPILER)
flags="-std=c11 -Wall -Wextra -Wpedantic -Werror"
sanitizers=$(cached DS_SANITIZE) # an instrumented library wants an instrumented program
[ -z "$sanitizers" ] || flags="$flags -fsanitize=$sanitizers"

echo "names"
version=$(pkg-config --modversion deepseek)
[ -f "$libdir/libdeepseek.so.$version" ] || fail "no libdeepseek.so.$version"
soname=$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
[ "$soname" = "libdeepseek.so.${version%%.*}" ] || fail "the soname is '$soname'"
names=$(nm -D --defined-only "$library" | awk '{print $NF}')
others=$(echo "$names" | grep -v '^ds_' || true)
[ -z "$others" ] || fail "exported without ds_: $others"
echo "$names" | grep -qx ds_compile || fail "ds_compile is not exported"

echo "each header alone"
for header in "$prefix"/include/deepseek/*.h; do
    echo "#include <deepseek/${header##*/}>" >"$dir/header.c"
    # shellcheck disable=SC2046,SC2086 # lists of words are meant
    "$cc" $flags -fsyntax-only $(pkg-config --cflags deepseek) "$dir/header.c" || fail "${header##*/}"
done

echo "a program by pkg-config"
# shellcheck disable=SC2046,SC2086
"$cc" $flags -o "$dir/by-pkg-config" "$source/examples/own_model.c" \
    $(pkg-config --cflags --libs deepseek) -lm
"$dir/by-pkg-config" | grep -q "^step 400" || fail "the program by pkg-config does not train"

echo "a program by find_package"
mkdir "$dir/by-cmake"
cat >"$dir/by-cmake/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.25)
project(consumer LANGUAGES C)
find_package(deepseek ${version%.*} REQUIRED)
add_executable(consumer $source/examples/own_model.c)
target_link_libraries(consumer PRIVATE deepseek::deepseek m)
END
cmake -S "$dir/by-cmake" -B "$dir/by-cmake/build" -G Ninja -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_COMPILER="$cc" -DCMAKE_C_FLAGS="$flags" >"$dir/log" 2>&1 || fail "$(cat "$dir/log")"
cmake --build "$dir/by-cmake/build" >"$dir/log" 2>&1 || fail "$(cat "$dir/log")"
"$dir/by-cmake/build/consumer" | grep -q "^step 400" || fail "the program by CMake does not train"

echo "the tools"
unset LD_LIBRARY_PATH # they stand alone
for i in $(seq 1 100); do echo "In the year $i the king counted $((i * 7)) sheep."; done >"$dir/text"
"$prefix/bin/deepseek-tokenize" train --vocab-size 300 -o "$dir/tokenizer.json" "$dir/text" >"$dir/log" 2>&1 ||
    fail "$(cat "$dir/log")"
"$prefix/bin/deepseek-tokenize" encode --tokenizer "$dir/tokenizer.json" -o "$dir/tokens" "$dir/text" \
    >"$dir/log" 2>&1 || fail "$(cat "$dir/log")"
DATA="$dir/tokens" TOKENIZER="$dir/tokenizer.json" "$prefix/bin/deepseek-train" \
    --config "$prefix/share/deepseek/configs/demo.yaml" --dry-run "checkpoint.directory=$dir/run" \
    data.seq_len=16 training.micro_batch=2 >"$dir/log" 2>&1 || fail "$(cat "$dir/log")"
[ ! -d "$build/man" ] || [ -s "$prefix/share/man/man1/deepseek-serve.1" ] || fail "no manual pages"
grep -q "/bin/deepseek-serve --model" "$prefix/lib/systemd/system/deepseek-serve.service" || fail "no unit"
for tool in "$prefix"/bin/deepseek-*; do
    "$tool" --help | grep -q "${tool##*/}" || fail "${tool##*/} --help"
done
