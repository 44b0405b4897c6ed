# Resident memory against what has to be there; and when the server is ready.
field("resident_bytes") != "" {
    name = field("model") ", " substr(field("who"), length("ours ") + 1)
    names[++count] = name
    resident[name] = field("resident_bytes") + 0
    weights[name] = field("weights_bytes") + 0
    cache[name] = field("cache_in_use_bytes") + 0
    next
}
field("startup") != "" && field("at_1") != "" {
    name = field("who")
    if (!(name in ready) || field("at_1") + 0 < ready[name])
        ready[name] = field("at_1") + 0
}
END {
    printf "%-32s %12s %12s %14s %8s %14s\n", "", "resident", "weights", "cache in use", "ratio", "server ready"
    for (i = 1; i <= count; i++) {
        name = names[i]
        printf "%-32s %12s %12s %14s %8.3f %14s\n", name, bytes_text(resident[name]), bytes_text(weights[name]), bytes_text(cache[name]),
            resident[name] / (weights[name] + cache[name]), name in ready ? seconds_text(ready[name]) : "-"
    }
    print "wanted: a ratio of at most 1.1, ready within 200 ms (the fastest of the starts: the model is in the page cache)"
}
