# Sourced: tiny_model BIN FOLDER makes a model of a few thousand parameters there that says nothing
# sensible, with a vocabulary that spells every byte and the chat template of Qwen 2.5.
tiny_model() {
    bin="$1" to="$2"
    mkdir -p "$to.work"
    for i in $(seq 60); do
        echo "{\"name\": \"Ann\", \"age\": $i, \"list\": [true, false, null], \"text\": \"In the year $i, she said.\"}"
    done >"$to.work/text"
    "$bin/deepseek-tokenize" train --vocab-size 400 --special '<|im_start|>' --special '<|im_end|>' \
        -o "$to.work/tokenizer.json" "$to.work/text" >"$to.work/log" 2>&1
    "$bin/deepseek-tokenize" encode --tokenizer "$to.work/tokenizer.json" -o "$to.work/tokens" "$to.work/text" \
        >>"$to.work/log" 2>&1
    cat >"$to.work/run.yaml" <<END
model: {preset: tiny, vocab_size: 400, n_layers: 1, hidden_size: 32, n_heads: 2, intermediate_size: 64, max_seq_len: 4096}
data: {train: $to.work/tokens, tokenizer: $to.work/tokenizer.json, seq_len: 32}
training: {steps: 1, micro_batch: 1, sample_interval: 0, eval_interval: 0}
checkpoint: {directory: $to.work/run, interval: 1}
END
    "$bin/deepseek-train" --config "$to.work/run.yaml" >>"$to.work/log" 2>&1
    cp -r "$to.work/run/checkpoints/step-00000001" "$to"
    # the telltales by which the template is known
    cat >"$to/tokenizer_config.json" <<'END'
{"bos_token": null, "eos_token": "<|im_end|>", "add_bos_token": false, "chat_template":
 "<|im_start|> You are Qwen, created by Alibaba Cloud. You are a helpful assistant."}
END
}
