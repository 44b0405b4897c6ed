# Perplexities of one model's weights kept in different ways, against bf16's.
field("weights") != "" {
    n++
    name[n] = field("weights")
    perplexity[n] = field("perplexity")
    same[n] = field("same")
    tokens = field("tokens")
    if (name[n] == "bf16")
        bf16 = perplexity[n]
}
END {
    printf "%d tokens predicted\n", tokens
    printf "%-42s %12s %12s %14s\n", "weights", "perplexity", "of bf16", "same as fp32"
    for (i = 1; i <= n; i++)
        printf "%-42s %12.4f %12s %13.1f%%\n", name[i], perplexity[i], bf16 ? sprintf("%+.2f%%", (perplexity[i] / bf16 - 1) * 100) : "", same[i] * 100
}
