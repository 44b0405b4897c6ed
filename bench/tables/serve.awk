# Streams at once: throughput and times to the first token, and how much sooner it comes where prompts begin alike.
BEGIN {
    printf "%-14s %8s %8s %10s %12s %12s %9s\n", "server", "streams", "prefix", "tokens/s", "first p50", "first p99", "sooner"
}
field("bench") == "serve" {
    key = field("who") " " field("streams")
    sooner = ""
    if (field("prefix") == "none")
        none[key] = field("first_p50_ms")
    else if (none[key] > 0 && field("first_p50_ms") > 0)
        sooner = sprintf("%.1f x", none[key] / field("first_p50_ms"))
    printf "%-14s %8d %8s %10.1f %9.1f ms %9.1f ms %9s\n", field("who"), field("streams"), field("prefix"),
        field("tokens_per_s"), field("first_p50_ms"), field("first_p99_ms"), sooner
}
