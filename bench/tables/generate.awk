# Generating text: ours, the peers, the limit. Bytes and operations are ours to count: those of the
# peers' same work are as many.
/"machine_limits"/ { take_limits(); next }
field("read_bytes_per_s") != "" {
    rate = field("read_bytes_per_s") + 0
    if (rate > read)
        read = rate
    read_threads = field("threads")
    next
}
field("case") != "" {
    key = field("model") ", " field("case")
    if (!(key in known)) {
        known[key] = 1
        keys[++n_keys] = key
        tokens[key] = field("tokens")
    }
    if (substr(field("who"), 1, 5) == "ours ") {
        bytes[key] = field("bytes") + 0
        flops[key] = field("flops") + 0
    }
    if (!((key, field("who")) in n)) {
        order[key] = order[key] "\n" field("who")
        n[key, field("who")] = 0
    }
    took[key, field("who"), ++n[key, field("who")]] = field("seconds") + 0
}

function median_of(key, who,    i, list) {
    for (i = 1; i <= n[key, who]; i++)
        list[i] = took[key, who, i]
    return median_of_list(list, n[key, who])
}

# What products of these weights are limited by: "int8" where both operands are bytes, "bf16", or
# "f32" where the processor has nothing faster.
function arithmetic_of(who) {
    if (who ~ / (int8|i8|q8_0|q4_0)(,|$)/)
        return i8 ? "int8" : "f32"
    return who ~ / (f32|fp32)$/ || through_f32 || !bf16 ? "f32" : "bf16"
}

END {
    peak["f32"] = f32
    peak["bf16"] = bf16
    peak["int8"] = i8
    for (k = 1; k <= n_keys; k++) {
        key = keys[k]
        printf "%s\n  %-36s %10s %10s %10s %9s\n", key, "", "time", "tokens/s", bytes[key] ? "GB/s" : "GFLOP/s", "of limit"
        m = split(substr(order[key], 2), names, "\n")
        best = 0
        ours = 0
        for (i = 1; i <= m; i++) {
            s = median_of(key, names[i])
            kind = bytes[key] ? "memory" : arithmetic_of(names[i])
            fastest = bytes[key] ? read : peak[kind]
            limit = fastest ? (bytes[key] ? bytes[key] : flops[key]) / fastest : 0
            if (limit && !((key, kind) in limits)) {
                limits[key, kind] = limit
                kinds[key] = kinds[key] "\n" kind
            }
            # peers in another type read as many bytes in bf16 and f16, twice as many in f32
            work = bytes[key] ? bytes[key] : flops[key]
            printf "  %-36s %10s %10.1f %10.1f %8.1f%%\n", names[i], seconds_text(s), tokens[key] / s, work / s / 1e9,
                limit ? 100 * limit / s : 0
            if (substr(names[i], 1, 5) == "ours ") {
                if (!ours || s < ours)
                    ours = s
            } else if (!best || s < best)
                best = s
        }
        m = split(substr(kinds[key], 2), names, "\n")
        for (i = 1; i <= m; i++) {
            limit = limits[key, names[i]]
            printf "  %-36s %10s %10.1f %10.1f\n", bytes[key] ? "limit: the weights read once a token" : "limit: arithmetic of " names[i],
                seconds_text(limit), tokens[key] / limit, (bytes[key] ? read : peak[names[i]]) / 1e9
        }
        if (best && ours)
            printf "  ours / best peer: %.2f\n", best / ours
        else
            print "  no peer"
        print ""
    }
    if (read)
        printf "memory is read at %.1f GB/s by %d threads, measured in turn with the rest\n", read / 1e9, read_threads
    print_limits()
}
