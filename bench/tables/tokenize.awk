# Tokenizers: megabytes of text a second, learning and encoding. Medians over the rounds.
field("case") != "" {
    task = field("case")
    who = field("who")
    if (!((task, who) in n)) {
        n[task, who] = 0
        order[task] = order[task] "\n" who
    }
    bytes = field("bytes")
    tokens[task, who] = field("tokens")
    took[task, who, ++n[task, who]] = field("seconds") + 0
}

function rows(task, title, wanted,    m, names, i, k, list, rate, ours, best) {
    printf "%s\n  %-24s %10s %10s %10s\n", title, "", "time", "MB/s", "tokens"
    m = split(substr(order[task], 2), names, "\n")
    for (i = 1; i <= m; i++) {
        for (k = 1; k <= n[task, names[i]]; k++)
            list[k] = took[task, names[i], k]
        seconds = median_of_list(list, n[task, names[i]])
        rate = bytes / seconds / 1e6
        printf "  %-24s %10s %10.1f %10d\n", names[i], seconds_text(seconds), rate, tokens[task, names[i]]
        if (names[i] == "ours")
            ours = rate
        else if (rate > best)
            best = rate
    }
    printf "  wanted: %d MB/s", wanted
    print best ? sprintf("; ours / peer: %.2f", ours / best) : "; no peer"
}

END {
    rows("train", "a vocabulary of 8192 tokens, all threads", 5)
    rows("encode", "encoding, one core", 20)
    printf "%.1f MB of text\n", bytes / 1e6
}
