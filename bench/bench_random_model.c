/* Writes a Llama with random weights as a Hugging Face folder, for benchmarks of models whose
 * weights are not at hand; what is written in f32, bf16 or f16 is the same numbers, rounded.
 *     bench_random_model SHAPE FOLDER [bf16|f16|f32]
 * SHAPE: smollm2-135m, llama-1b (Llama 3.2's), or tiny, for tests. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/half.h"
#include "base/rng.h"
#include "base/text.h"
#include "deepseek/safetensors.h"
#include "support.h"

typedef struct shape {
    const char *name;
    int vocab, hidden, inner, layers, heads, kv_heads, head_dim, longest;
    double theta;
} shape;

static const shape shapes[] = {
    {"smollm2-135m", 49152, 576, 1536, 30, 9, 3, 64, 8192, 1e5},
    {"llama-1b", 128256, 2048, 8192, 16, 32, 8, 64, 8192, 5e5},
    {"tiny", 512, 64, 160, 2, 4, 2, 16, 4096, 1e4},
};

static const struct {
    const char *name;
    ds_dtype dtype;
} dtypes[] = {{"bf16", DS_BF16}, {"f16", DS_F16}, {"f32", DS_F32}};

enum { NAME = 96, MOST = 16 };

typedef struct tensors {
    char (*names)[NAME];
    ds_safetensors_entry *list;
    size_t n;
    ds_dtype dtype;
} tensors;

static void add(tensors *t, const char *prefix, const char *name, int64_t rows, int64_t columns) {
    snprintf(t->names[t->n], NAME, "%s%s.weight", prefix, name);
    ds_safetensors_entry *e = &t->list[t->n];
    *e =
        (ds_safetensors_entry){.name = t->names[t->n], .dtype = t->dtype, .rank = rows > 0 ? 2 : 1};
    e->dims[0] = rows > 0 ? rows : columns;
    e->dims[1] = rows > 0 ? columns : 0;
    t->n++;
}

static void list_tensors(const shape *s, tensors *t) {
    const size_t room = (size_t)(s->layers + 1) * MOST;
    t->names = calloc(room, sizeof *t->names);
    t->list = calloc(room, sizeof *t->list);
    check(t->names && t->list ? DS_OK : DS_OUT_OF_MEMORY);
    add(t, "model.", "embed_tokens", s->vocab, s->hidden);
    add(t, "model.", "norm", 0, s->hidden);
    for (int i = 0; i < s->layers; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "model.layers.%d.", i);
        add(t, prefix, "input_layernorm", 0, s->hidden);
        add(t, prefix, "post_attention_layernorm", 0, s->hidden);
        add(t, prefix, "self_attn.q_proj", s->heads * s->head_dim, s->hidden);
        add(t, prefix, "self_attn.k_proj", s->kv_heads * s->head_dim, s->hidden);
        add(t, prefix, "self_attn.v_proj", s->kv_heads * s->head_dim, s->hidden);
        add(t, prefix, "self_attn.o_proj", s->hidden, s->heads * s->head_dim);
        add(t, prefix, "mlp.gate_proj", s->inner, s->hidden);
        add(t, prefix, "mlp.up_proj", s->inner, s->hidden);
        add(t, prefix, "mlp.down_proj", s->hidden, s->inner);
    }
}

/* Even over ±0.035, which has the usual deviation of 0.02; norms are ones. first: a multiple of 4.
 */
static void draw(const ds_safetensors_entry *e, uint64_t key, int64_t first, int64_t n, void *out) {
#pragma omp parallel for schedule(static)
    for (int64_t four = 0; four < n; four += 4) {
        const ds_philox_block b = ds_philox(key, (uint64_t)(first + four) / 4, 0);
        for (int64_t i = four; i < n && i < four + 4; i++) {
            const float x = e->rank == 2 ? 0.035f * (2 * ds_uniform(b.word[i - four]) - 1) : 1;
            if (e->dtype == DS_F32)
                ((float *)out)[i] = x;
            else
                ((uint16_t *)out)[i] = e->dtype == DS_BF16 ? ds_f32_to_bf16(x) : ds_f32_to_f16(x);
        }
    }
}

static void write_tensors(const tensors *t, const char *folder) {
    enum { CHUNK = 1 << 20 };
    char path[4096];
    ds_safetensors_writer *writer = NULL;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    check(ds_safetensors_writer_new(path, t->list, t->n,
                                    (const char *const[]){"format", "pt", NULL}, &writer));
    void *values = malloc(CHUNK * sizeof(float));
    check(values ? DS_OK : DS_OUT_OF_MEMORY);
    for (size_t i = 0; i < t->n; i++) {
        const ds_safetensors_entry *e = &t->list[i];
        const int64_t n = ds_count(e->dims, e->rank);
        const size_t size = ds_dtype_size(e->dtype);
        for (int64_t at = 0; at < n; at += CHUNK) {
            const int64_t count = n - at < CHUNK ? n - at : CHUNK;
            draw(e, ds_mix64(ds_hash_name(e->name)), at, count, values);
            check(ds_safetensors_writer_write(writer, i, (size_t)at * size, values,
                                              (size_t)count * size));
        }
    }
    free(values);
    check(ds_safetensors_writer_close(writer, NULL));
}

static void write_config(const shape *s, const char *dtype, const char *folder) {
    char path[4096], text[1024];
    snprintf(text, sizeof text,
             "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", "
             "\"vocab_size\": %d, \"hidden_size\": %d, \"intermediate_size\": %d, "
             "\"num_hidden_layers\": %d, \"num_attention_heads\": %d, "
             "\"num_key_value_heads\": %d, \"head_dim\": %d, \"max_position_embeddings\": %d, "
             "\"rope_theta\": %.1f, \"rms_norm_eps\": 1e-05, \"hidden_act\": \"silu\", "
             "\"tie_word_embeddings\": true, \"attention_bias\": false, \"mlp_bias\": false, "
             "\"bos_token_id\": 1, \"eos_token_id\": 2, \"torch_dtype\": \"%s\"}\n",
             s->vocab, s->hidden, s->inner, s->layers, s->heads, s->kv_heads, s->head_dim,
             s->longest, s->theta, dtype);
    snprintf(path, sizeof path, "%s/config.json", folder);
    check(ds_file_replace(path, text, strlen(text)));
}

/* A tokenizer as large as the vocabulary: words of letters in order of length, each made by a merge
 * of the word without its last letter and that letter. */
static void spell(int id, char out[16]) {
    char turned[16];
    int n = 0, i = 0;
    for (int rest = id; rest >= 0; rest = rest / 26 - 1)
        turned[n++] = (char)('a' + rest % 26);
    while (n > 0)
        out[i++] = turned[--n];
    out[i] = '\0';
}

static void write_tokenizer(int vocab, const char *folder) {
    char path[4096], word[16];
    ds_text text = {0};
    ds_text_puts(&text, "{\"version\": \"1.0\", \"added_tokens\": [], \"normalizer\": null, "
                        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                        "\"use_regex\": true}, \"decoder\": {\"type\": \"ByteLevel\"}, "
                        "\"model\": {\"type\": \"BPE\", \"vocab\": {");
    for (int i = 0; i < vocab; i++) {
        spell(i, word);
        ds_text_printf(&text, "%s\"%s\": %d", i ? ", " : "", word, i);
    }
    ds_text_puts(&text, "}, \"merges\": [");
    for (int i = 26; i < vocab; i++) {
        spell(i, word);
        const size_t n = strlen(word) - 1;
        ds_text_printf(&text, "%s\"%.*s %c\"", i > 26 ? ", " : "", (int)n, word, word[n]);
    }
    ds_text_puts(&text, "]}}\n");
    check(text.data && !text.poisoned ? DS_OK : DS_OUT_OF_MEMORY);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    check(ds_file_replace(path, text.data, text.length));
    ds_text_clear(&text);
}

int main(int argc, char **argv) {
    const shape *s = NULL;
    const char *type = argc > 3 ? argv[3] : "bf16";
    tensors t = {.dtype = DS_DTYPES};
    for (size_t i = 0; argc > 2 && i < sizeof shapes / sizeof *shapes; i++)
        s = strcmp(argv[1], shapes[i].name) == 0 ? &shapes[i] : s;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        t.dtype = strcmp(type, dtypes[i].name) == 0 ? dtypes[i].dtype : t.dtype;
    if (!s || t.dtype == DS_DTYPES) {
        fputs("usage: bench_random_model smollm2-135m|llama-1b|tiny FOLDER [bf16|f16|f32]\n",
              stderr);
        return 2;
    }
    check(ds_folder_make(argv[2]));
    list_tensors(s, &t);
    write_tensors(&t, argv[2]);
    write_config(s,
                 t.dtype == DS_BF16  ? "bfloat16"
                 : t.dtype == DS_F16 ? "float16"
                                     : "float32",
                 argv[2]);
    write_tokenizer(s->vocab, argv[2]);
    free(t.names);
    free(t.list);
    return 0;
}
