"""Makes ../data/goldens/FAMILY for every family of models (or those named as arguments): tiny models with random weights as Hugging Face's
transformers writes them, and what it computes with them: logits, losses, every gradient.
README.md beside this file says what is in each file."""
import os
import shutil
import sys
import tempfile

import torch
import torch.nn.functional as F
import transformers

from recorder import Recorder

IGNORED = -100
BATCH, TOKENS = 3, 13
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../data/goldens")


def initialise(model, r):
    """Weights large enough that every part of the model shows in the logits; exact in float32."""
    for name, p in model.named_parameters():
        if p.dim() == 1 and name.endswith("weight"):  # of a norm
            p.data = 1 + r.normal(*p.shape, scale=0.2)
        elif p.dim() == 1:
            p.data = r.normal(*p.shape, scale=0.1)
        else:
            p.data = r.normal(*p.shape, scale=0.25)
        p.data = p.data.float()


def save_checkpoint(model, folder):
    """config.json and model.safetensors, as save_pretrained writes them."""
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as written:
        model.save_pretrained(written)
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(os.path.join(written, name), os.path.join(folder, name))


def mean_loss(logits, labels):
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def gradients(model):
    """By the names of the checkpoint, where experts are one by one."""
    parts = ("gate_proj", "up_proj", "down_proj")
    renamed = {}
    if model.config.model_type == "mixtral":
        parts = ("w1", "w3", "w2")
        renamed = {".mlp.": ".block_sparse_moe."}
    for name, p in model.named_parameters():
        grad = p.grad
        for old, new in renamed.items():
            name = name.replace(old, new)
        expert = name.rsplit(".", 1)
        if expert[1] == "gate_up_proj":
            for e in range(len(grad)):
                gate, up = grad[e].chunk(2)
                yield f"{expert[0]}.{e}.{parts[0]}.weight", gate
                yield f"{expert[0]}.{e}.{parts[1]}.weight", up
        elif expert[1] == "down_proj" and grad.dim() == 3:
            for e in range(len(grad)):
                yield f"{expert[0]}.{e}.{parts[2]}.weight", grad[e]
        else:
            yield name, grad


def finish(r, folder, model, loss):
    r.keep("loss", loss)
    loss.backward()
    for name, grad in gradients(model):
        r.keep(f"grad/{name}", grad)
    path = os.path.join(folder, "expected.safetensors")
    r.save(path)
    size = sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
    print(f"{os.path.normpath(folder)}: loss {loss.item():.6f}, {size} bytes")


def prepare(name, model, r):
    folder = os.path.join(OUT, name)
    initialise(model, r)
    save_checkpoint(model, folder)
    return folder, model.double()


def record_decoder(name, seed, model):
    r = Recorder(seed)
    folder, model = prepare(name, model, r)
    text = r.integers(0, model.config.vocab_size, BATCH, TOKENS + 1)
    tokens, labels = text[:, :-1], text[:, 1:].clone()
    labels[0, :4] = IGNORED  # a prompt
    labels[2, -5:] = IGNORED  # the rest of a short text
    logits = model(input_ids=tokens).logits
    assert logits.dtype == torch.float64
    r.keep("tokens", tokens)
    r.keep("labels", labels)
    r.keep("logits", logits)
    finish(r, folder, model, mean_loss(logits, labels))


def record_bert(seed, model):
    r = Recorder(seed)
    folder, model = prepare("bert", model, r)
    lengths = torch.tensor([TOKENS, 9, 11])
    tokens = r.integers(0, model.config.vocab_size, BATCH, TOKENS)
    place = torch.arange(TOKENS)
    padded = place >= lengths[:, None]
    segments = ((place >= torch.tensor([6, 4, 7])[:, None]) & ~padded).long()
    labels = torch.where((r.uniform(0, 1, BATCH, TOKENS) < 0.4) & ~padded,
                         r.integers(0, model.config.vocab_size, BATCH, TOKENS), IGNORED)
    next_sentence = torch.tensor([0, 1, 1])
    out = model(input_ids=tokens, token_type_ids=segments, attention_mask=(~padded).long(),
                labels=labels, next_sentence_label=next_sentence)
    masked_loss = mean_loss(out.prediction_logits, labels)
    sentence_loss = mean_loss(out.seq_relationship_logits, next_sentence)
    torch.testing.assert_close(out.loss, masked_loss + sentence_loss)
    for name, tensor in (("tokens", tokens), ("segment_ids", segments), ("lengths", lengths),
                         ("labels", labels), ("next_sentence", next_sentence),
                         ("logits", out.prediction_logits),
                         ("next_sentence_logits", out.seq_relationship_logits),
                         ("masked_loss", masked_loss), ("next_sentence_loss", sentence_loss)):
        r.keep(name, tensor)
    finish(r, folder, model, masked_loss + sentence_loss)


NO_ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
LLAMA = dict(vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=24, **NO_ENDS)
SMALL = dict(LLAMA, vocab_size=37, hidden_size=16, intermediate_size=24)
PLAIN = {"rope_type": "default", "rope_theta": 5000.0}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 6,
        "beta_fast": 4.0, "beta_slow": 1.0}
LATENT = dict(num_key_value_heads=4, kv_lora_rank=12, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=5,
              moe_intermediate_size=10, first_k_dense_replace=1, num_experts_per_tok=3)


def experts(model):
    """Router biases are no parameters: give them values that change the choice."""
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.linspace(-0.3, 0.3, len(buffer)).flip(0))
    return model


def decoders():
    t = transformers
    eager = {"experts_implementation": "eager"}
    yield "gpt2", 1, t.GPT2LMHeadModel(t.GPT2Config(
        vocab_size=67, n_embd=32, n_layer=2, n_head=4, n_positions=20,
        bos_token_id=66, eos_token_id=66, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))
    yield "llama", 2, t.LlamaForCausalLM(t.LlamaConfig(
        intermediate_size=56, head_dim=8, rms_norm_eps=1e-5, rope_parameters=PLAIN, **LLAMA))
    yield "mixtral", 3, t.MixtralForCausalLM(t.MixtralConfig(
        intermediate_size=24, num_local_experts=4, num_experts_per_tok=2,
        router_aux_loss_coef=0.0, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, **eager, **LLAMA))
    yield "llama3", 5, t.LlamaForCausalLM(t.LlamaConfig(
        head_dim=8, attention_bias=True, mlp_bias=True,
        rope_parameters={"rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 12}, **SMALL))
    yield "mistral", 6, t.MistralForCausalLM(t.MistralConfig(
        head_dim=8, sliding_window=5, rope_parameters=PLAIN, **SMALL))
    yield "qwen2", 7, t.Qwen2ForCausalLM(t.Qwen2Config(
        rope_parameters=YARN, tie_word_embeddings=True, **SMALL))
    yield "qwen3", 8, t.Qwen3ForCausalLM(t.Qwen3Config(head_dim=6, rope_parameters=PLAIN, **SMALL))
    yield "qwen2_moe", 9, t.Qwen2MoeForCausalLM(t.Qwen2MoeConfig(
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=10, shared_expert_intermediate_size=12,
        router_aux_loss_coef=0.0, rope_parameters=PLAIN, **eager, **SMALL))
    yield "qwen3_moe", 10, t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(
        head_dim=6, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=10, norm_topk_prob=True,
        router_aux_loss_coef=0.0, rope_parameters=PLAIN, **eager, **SMALL))
    yield "deepseek_v2", 11, t.DeepseekV2ForCausalLM(t.DeepseekV2Config(
        q_lora_rank=None, n_routed_experts=8, n_shared_experts=2, n_group=4, topk_group=2,
        topk_method="group_limited_greedy", routed_scaling_factor=1.5,
        rope_parameters=dict(YARN, mscale=0.7, mscale_all_dim=0.9), **eager, **{**SMALL, **LATENT}))
    yield "deepseek_v3", 12, experts(t.DeepseekV3ForCausalLM(t.DeepseekV3Config(
        q_lora_rank=14, n_routed_experts=8, n_shared_experts=1, n_group=4, topk_group=2, num_mtp_layers=0,
        routed_scaling_factor=2.5, rope_parameters=PLAIN, **eager, **{**SMALL, **LATENT})))


def main():
    wanted = sys.argv[1:]
    for name, seed, model in decoders():
        if not wanted or name in wanted:
            record_decoder(name, seed, model)
    if wanted and "bert" not in wanted:
        return
    # without pad_token_id, whose embedding PyTorch would give no gradient
    record_bert(4, transformers.BertForPreTraining(transformers.BertConfig(
        vocab_size=71, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=20,
        pad_token_id=None, hidden_dropout_prob=0, attention_probs_dropout_prob=0)))


if __name__ == "__main__":
    main()
