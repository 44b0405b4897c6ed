# Start-up, and checkpoints against the disk.
/"machine_limits"/ { take_limits(); next }
field("startup") != "" {
    who = field("who")
    if (who == "ours") {
        n++
        announced[n] = field("at_1") + 0
        end[n] = field("at_2") + 0
        first_step[n] = field("first_step_s") + 0
        begins[n] = end[n] - first_step[n]
    } else {
        peer = who
        peer_begins[++n_peer] = field("at_1") + 0
    }
    next
}
field("checkpoint") != "" {
    if (field("who") == "ours")
        ours = $0
    else
        theirs = $0
}

function rate(line, name,    value) {
    $0 = line
    value = field(name "_bytes_per_s")
    return value == "" ? 0 : value / 1e9
}

function row(what, name, limit_what, limit_name,    mine, limit, peers) {
    mine = rate(ours, name)
    limit = rate(ours, limit_name)
    peers = theirs == "" ? 0 : rate(theirs, name)
    printf "  %-34s %8.2f GB/s   %-26s %8.2f GB/s %6.0f%%   %s\n", what, mine, limit_what, limit,
        limit ? 100 * mine / limit : 0, peers ? sprintf("%8.2f GB/s", peers) : "       -"
}

END {
    if (n) {
        printf "from the start of the process to the first step of the demo model, median of %d\n", n
        printf "  %-44s %8.3f s\n", "everything made, the run announced", median_of_list(announced, n)
        printf "  %-44s %8.3f s   (target: 0.5)\n", "the first step begins", median_of_list(begins, n)
        printf "  %-44s %8.3f s\n", "the first step took", median_of_list(first_step, n)
        if (n_peer)
            printf "  %-44s %8.3f s\n", peer ": the first step begins", median_of_list(peer_begins, n_peer)
        print ""
    }
    if (ours != "") {
        $0 = ours
        printf "checkpoints of %s with AdamW's state, %s\n", field("checkpoint"), bytes_text(field("size_bytes"))
        printf "  %-34s %8s        %-26s %8s      %7s   %s\n", "", "ours", "limit", "", "of it", theirs == "" ? "no peer" : "torch.save, load"
        row("write: tensors, MD5, synced", "write", "one file, write and fsync", "raw_write")
        row("what training waits for (async)", "snapshot", "copy in memory", "copy")
        row("load, from the disk", "load_cold", "read of one file", "raw_read_cold")
        row("load, from the page cache", "load_warm", "read of one file", "raw_read_warm")
        row("verify (MD5), from the cache", "verify_warm", "read of one file", "raw_read_warm")
        print "  Every byte is also summed by MD5, on one core: the last line is its rate, and where the disk is faster, it is the limit of writing."
        print "  From the disk: the files' pages are dropped from the page cache first; the device below may still have a cache."
    }
    print ""
    print_limits()
}
