# Peak memory of training steps; then what recomputation and offloading save and cost.
/"machine_limits"/ { take_limits(); next }
field("skipped") != "" { next }
field("table") == "choices" { choices = 1; next }
choices && field("who") == "ours" {
    n_choices++
    choice_title = field("model") ", " field("batch") " x " field("seq_len") ", " field("precision")
    recompute[n_choices] = field("recompute")
    offload[n_choices] = field("offload")
    choice_step[n_choices] = field("step_s")
    choice_working[n_choices] = field("working_bytes")
    choice_host[n_choices] = field("host_bytes")
    choice_rss[n_choices] = field("peak_rss_bytes")
    next
}
field("model") != "" {
    key = field("model") ", " field("batch") " x " field("seq_len")
    precision = field("precision")
    if (field("who") == "ours") {
        if (!(key in known)) {
            known[key] = 1
            keys[++n_keys] = key
        }
        rss[key, precision] = field("peak_rss_bytes")
        working[key, precision] = field("working_bytes")
        kept[key, precision] = field("parameters_bytes") + field("gradients_bytes") + field("optimizer_bytes")
        derived[key, precision] = field("derived_bytes")
    } else {
        split(field("who"), words, " ")
        peer[key, precision, words[3]] = field("peak_rss_bytes")
        peer_base = field("before_model_bytes")
    }
}

function peer_columns(key, precision, variant,    peak) {
    peak = peer[key, precision, variant]
    return peak ? sprintf(" %10s %6.0f%%", bytes_text(peak), 100 * rss[key, precision] / peak) : sprintf(" %10s %7s", "-", "")
}

END {
    printf "peak memory of the whole process, and of what (by the plan)\n"
    printf "%-26s %-5s %10s %10s %10s %10s | %10s %7s %10s %7s\n", "", "", "ours", "kept", "copies", "working", "eager", "ours/it", "compiled", "ours/it"
    for (k = 1; k <= n_keys; k++) {
        key = keys[k]
        for (i = 1; i <= 2; i++) {
            p = i == 1 ? "fp32" : "bf16"
            if (rss[key, p])
                printf "%-26s %-5s %10s %10s %10s %10s |%s%s\n", key, p, bytes_text(rss[key, p]), bytes_text(kept[key, p]),
                    bytes_text(derived[key, p]), bytes_text(working[key, p]), peer_columns(key, p, "eager"), peer_columns(key, p, "compiled")
        }
        if (rss[key, "fp32"] && rss[key, "bf16"])
            printf "  bf16 against fp32: %.0f %% less in all, %.0f %% less working memory (target: 40)\n",
                100 - 100 * rss[key, "bf16"] / rss[key, "fp32"], 100 - 100 * working[key, "bf16"] / working[key, "fp32"]
    }
    print "kept: f32 parameters, gradients and AdamW's moments, whatever the precision; copies: weights cast or packed for"
    print "kernels; working: activations and temporaries. Target against PyTorch: 60 % or less."
    if (peer_base)
        printf "PyTorch's process takes %s before it has a model.\n", bytes_text(peer_base)
    if (n_choices) {
        printf "\nrecomputation and offloading: %s\n", choice_title
        printf "  %-10s %-8s %12s %12s %12s %10s %8s\n", "recompute", "offload", "working", "offloaded", "process", "step", "time"
        for (i = 1; i <= n_choices; i++)
            printf "  %-10s %-8s %12s %12s %12s %10s %7.0f%%\n", recompute[i], offload[i], bytes_text(choice_working[i]),
                bytes_text(choice_host[i]), bytes_text(choice_rss[i]), seconds_text(choice_step[i]), 100 * choice_step[i] / choice_step[1]
        print "working: the device's arena, which is what these settings are for; on a CPU what is offloaded to the host is"
        print "in the same memory, so that the process is no smaller; in a file it is in the page cache at most."
    }
    if (f32) {
        print ""
        print_limits()
    }
}
