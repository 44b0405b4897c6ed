# Single kernels: the time of each against the time that the machine's limit would allow, against
# the peer's and against the reference kernel's. Rates are medians over the rounds.
/"machine_limits"/ { take_limits(); next }
field("case") != "" {
    name = field("case")
    who = field("who") ~ /^torch/ ? "torch" : field("who")
    if (who == "torch")
        peer = field("who")
    if (!(name in known)) {
        known[name] = 1
        names[++n_names] = name
    }
    if (field("about_s") != "") {
        about[name] = field("about_s")
        next
    }
    times[name, who, ++n_times[name, who]] = field("seconds")
    if (who == "ours") {
        flops[name] = field("flops")
        bytes[name] = field("bytes")
    }
}

function median(name, who,    n, i, j, least, swap) {
    n = n_times[name, who]
    for (i = 1; i <= n; i++) {
        least = i
        for (j = i + 1; j <= n; j++)
            if (times[name, who, j] + 0 < times[name, who, least] + 0)
                least = j
        swap = times[name, who, i]
        times[name, who, i] = times[name, who, least]
        times[name, who, least] = swap
    }
    return n ? times[name, who, int((n + 1) / 2)] + 0 : 0
}

# Seconds at the limits: arithmetic or memory, whichever needs longer.
function at_limit(name,    dtype, peak, by_flops, by_bytes) {
    split(name, words, " ")
    dtype = words[2]
    peak = dtype == "bf16" ? bf16 : dtype == "i8" && i8 ? i8 : f32
    by_flops = peak ? flops[name] / peak : 0
    by_bytes = memory ? bytes[name] / memory : 0
    is_memory = by_bytes > by_flops
    return is_memory ? by_bytes : by_flops
}

END {
    printf "%-44s %10s %14s %9s %10s %8s %12s %8s\n", "", "ours", "rate", "of limit", "torch", "torch/us", "reference", "ref/us"
    for (i = 1; i <= n_names; i++) {
        name = names[i]
        ours = median(name, "ours")
        if (!ours)
            continue
        limit = at_limit(name)
        torch = median(name, "torch")
        rough = ""
        if (!torch && about[name]) {
            torch = about[name] + 0
            rough = "~"
        }
        ref = median(name, "ref")
        printf "%-44s %10s %14s %8.0f%% %10s %8s %12s %8s\n", name, seconds_text(ours),
            is_memory ? sprintf("%.1f GB/s", bytes[name] / ours / 1e9) : sprintf("%.1f G%s/s", flops[name] / ours / 1e9, name ~ / i8 / ? "OP" : "FLOP"),
            100 * limit / ours, torch ? rough seconds_text(torch) : "-", torch ? sprintf("%.2f", torch / ours) : "-",
            ref ? seconds_text(ref) : "-", ref ? sprintf("%.0f", ref / ours) : "-"
    }
    print_limits()
    print "of limit: of arithmetic or memory, whichever the kernel needs longer for; what fits a cache may pass 100 %. rate: in the unit of that limit."
    print "torch/us, ref/us: how many times as long as ours they take." (peer ? " " peer : " no peer")
}
