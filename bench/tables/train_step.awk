# Training steps: ours, the peers, the limit. The model's operations per token are ours to count, so
# the peers' rates follow from their tokens.
/"machine_limits"/ { take_limits(); next }
field("model") != "" {
    key = field("model") " " field("batch") " x " field("seq_len")
    own = field("who") == "ours"
    if (own) { # lines of the peers come after ours
        title = key ", " field("precision")
        n_cases++
        titles[n_cases] = title
        precision[n_cases] = field("precision")
        flops_per_token[n_cases] = field("flops_per_s") / field("tokens_per_s")
        update_share[n_cases] = field("update_s") / field("step_s")
    }
    n = ++n_rows[n_cases]
    who[n_cases, n] = field("who") (own ? "" : ", " field("precision"))
    step[n_cases, n] = field("step_s")
    tokens[n_cases, n] = field("tokens_per_s")
    skipped[n_cases, n] = field("skipped")
}
END {
    for (c = 1; c <= n_cases; c++) {
        limit = precision[c] == "fp32" ? f32 : bf16
        reach = precision[c] == "fp32" ? 55 : 65
        printf "%s\n  %-36s %10s %10s %12s %9s\n", titles[c], "", "step", "tokens/s", "GFLOP/s", "of peak"
        best = 0
        for (r = 1; r <= n_rows[c]; r++) {
            if (skipped[c, r] != "") {
                printf "  %-36s left out: %s\n", who[c, r], skipped[c, r]
                continue
            }
            rate = tokens[c, r] * flops_per_token[c]
            printf "  %-36s %10s %10.1f %12.1f %8.1f%%\n", who[c, r], seconds_text(step[c, r]), tokens[c, r], rate / 1e9, limit ? 100 * rate / limit : 0
            if (r > 1 && tokens[c, r] > best)
                best = tokens[c, r]
        }
        printf "  %-36s %10s %10.1f %12.1f\n", "limit", "", limit / flops_per_token[c], limit / 1e9
        if (best)
            printf "  ours / best peer: %.2f (target: 2)", tokens[c, 1] / best
        else
            printf "  no peer"
        printf "; share of the peak wanted: %d %%; the update is %.0f %% of our step\n\n", reach, 100 * update_share[c]
    }
    print_limits()
}
