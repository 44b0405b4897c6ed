# All-reduces of two ranks: the time of each size, ours and the peers', and the rate (bytes of the buffer
# by time) against what the machine can move.
function add_row(link, who) {
    if (!((link, who) in known)) {
        known[link, who] = 1
        rows[link] = rows[link] (rows[link] ? "|" : "") who
    }
}
field("link") != "" { link = field("link"); if (!(link in links)) { links[link] = 1; order[++n_links] = link } next }
field("allreduce") != "" {
    who = field("allreduce")
    size = field("bytes")
    if (!(size in sizes)) { sizes[size] = 1; by_size[++n_sizes] = size }
    add_row(link, who)
    # several rounds: the best of the medians
    if (time[link, who, size] == "" || field("seconds") + 0 < time[link, who, size] + 0)
        time[link, who, size] = field("seconds")
}
function size_text(b) { b += 0; return b >= 1048576 ? b / 1048576 " MiB" : b / 1024 " KiB" }
END {
    for (l = 1; l <= n_links; l++) {
        link = order[l]
        printf "%s\n  %-10s", link, "size"
        n = split(rows[link], whos, "|")
        for (w = 1; w <= n; w++) printf " %22s", whos[w]
        printf " %10s %12s\n", "of limit", "best peer/us"
        for (s = 1; s <= n_sizes; s++) {
            size = by_size[s]
            printf "  %-10s", size_text(size)
            best = limit = us = ""
            for (w = 1; w <= n; w++) {
                t = time[link, whos[w], size]
                printf " %22s", t == "" ? "-" : seconds_text(t) sprintf(" %6.2f GB/s", size / t / 1e9)
                if (whos[w] == "ours") us = t
                else if (whos[w] == "copy" || whos[w] == "loopback") limit = t
                else if (t != "" && (best == "" || t + 0 < best + 0)) best = t
            }
            printf " %10s %12s\n", (us && limit) ? sprintf("%.0f %%", 100 * limit / us) : "-",
                (us && best) ? sprintf("%.2f", best / us) : "-"
        }
    }
}
