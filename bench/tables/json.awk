# Fields of flat lines of JSON, and pieces that the tables share.

# The value of a field: text without quotes, numbers as they are, "" if there is none.
function field(name,    at, rest) {
    at = index($0, "\"" name "\": ")
    if (!at)
        return ""
    rest = substr($0, at + length(name) + 4)
    if (substr(rest, 1, 1) == "\"") {
        rest = substr(rest, 2)
        return substr(rest, 1, index(rest, "\"") - 1)
    }
    sub(/[,}].*/, "", rest)
    return rest == "null" ? "" : rest
}

# The machine's limits, from the line that bench_machine_limits printed.
function take_limits() {
    threads = field("threads")
    f32 = field("f32_flops_per_s") + 0
    bf16 = field("bf16_flops_per_s") + 0
    i8 = field("i8_ops_per_s") + 0 # 0: no instructions for it
    memory = field("bytes_per_s") + 0
    through_f32 = field("bf16_through_f32") == "true"
}

function print_limits() {
    if (f32)
        printf "limits of this machine, measured in this run with %d threads: f32 %.1f GFLOP/s, bf16 %.1f GFLOP/s%s%s, memory %.1f GB/s\n",
            threads, f32 / 1e9, bf16 / 1e9, through_f32 ? " (through f32)" : "", i8 ? sprintf(", int8 %.1f GOP/s", i8 / 1e9) : "", memory / 1e9
}

# The median of list[1 … n], which is sorted by it.
function median_of_list(list, n,    i, j, swap) {
    for (i = 1; i <= n; i++)
        for (j = i + 1; j <= n; j++)
            if (list[j] < list[i]) {
                swap = list[i]
                list[i] = list[j]
                list[j] = swap
            }
    return list[int((n + 1) / 2)]
}

function seconds_text(s) {
    s += 0
    return s >= 100 ? sprintf("%.0f s", s) : s >= 1 ? sprintf("%.2f s", s) : s >= 1e-3 ? sprintf("%.2f ms", s * 1e3) : sprintf("%.1f us", s * 1e6)
}

function bytes_text(b) {
    b += 0
    return b >= 1e9 ? sprintf("%.2f GB", b / 1e9) : sprintf("%.1f MB", b / 1e6)
}
