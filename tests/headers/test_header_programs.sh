#!/bin/bash
# Every public header opens with a short program: the paragraphs of its first comment that are
# indented by five spaces. Each is put into a function (its own #include lines before it) and
# compiled with that header alone, and the header itself is compiled as C++: what the reader copies
# first must not rot.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
include=$here/../../include
compiler=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$1/CMakeCache.txt")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

compiles() { # LANGUAGE STANDARD FILE
    "$compiler" -x "$1" -std="$2" -Wall -Wextra -Werror -Wno-unused -I "$include" -fsyntax-only "$3"
}

for header in "$include"/deepseek/*.h; do
    name=$(basename "$header" .h)
    sed -n '1,/\*\//p' "$header" | awk '
        /^ \*     / { if (inside || blank) { print substr($0, 8); inside = 1 } blank = 0; next }
        { inside = 0; blank = $0 == " *" }' >"$dir/program"
    if ! [ -s "$dir/program" ]; then
        echo "FAILED: $name.h opens without a program"
        failed=1
        continue
    fi
    {
        echo "#include <stdio.h>"
        echo "#include <stdlib.h>"
        echo "#include <deepseek/$name.h>"
        grep '^#include' "$dir/program" || true
        echo "void program(void);"
        echo "void program(void) {"
        grep -v '^#include' "$dir/program"
        echo "}"
    } >"$dir/$name.c"
    compiles c c11 "$dir/$name.c" || { echo "FAILED: the program of $name.h"; failed=1; }
    echo "#include <deepseek/$name.h>" >"$dir/$name.cpp"
    if command -v "${compiler/%gcc/g++}" >/dev/null; then
        compiles c++ c++17 "$dir/$name.cpp" || { echo "FAILED: $name.h as C++"; failed=1; }
    fi
done
exit $failed
