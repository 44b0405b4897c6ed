/* Configurations, presets and the parameters that the builders declare. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "deepseek/models.h"

static ds_model_config preset(const char *name) {
    ds_model_config c = {0};
    if (ds_model_preset(name, &c) != DS_OK)
        fail_msg("%s", ds_error());
    return c;
}

static void test_published_parameter_counts(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int64_t n;
    } published[] = {
        {"gpt2-124m", 124439808}, /* as transformers counts GPT2LMHeadModel */
        {"gpt2-1.5b", 1557611200},
        {"bert-large", 336226108},    /* BertForPreTraining of bert-large-uncased */
        {"llama-1b", 1100048384},     /* TinyLlama 1.1B */
        {"deepseek-67b", 67425001472} /* 2·102400·8192 + 8192 + 95·(2·8192² + 2·8192·1024 +
                                         3·8192·22016 + 2·8192) */
    };
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        const ds_model_config c = preset(published[i].name);
        assert_int_equal(ds_model_n_params(&c), published[i].n);
    }
}

static void test_every_preset_is_sound(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double low, high;
    } sizes[] = {{"tiny", 0.8e6, 1.3e6},
                 {"demo", 9e6, 11e6},
                 {"moe-tiny", 3.5e6, 4.5e6},
                 {"deepseek-175b", 174e9, 176e9}};
    size_t n = 0;
    for (; ds_model_preset_at(n); n++) {
        const ds_model_preset_info *p = ds_model_preset_at(n);
        assert_true(p->name && p->summary);
        assert_int_equal(ds_model_config_check(&p->config), DS_OK);
        assert_true(ds_model_n_params(&p->config) > 0);
    }
    assert_in_range(n, 8, 100);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const ds_model_config c = preset(sizes[i].name);
        const double params = (double)ds_model_n_params(&c);
        assert_true(params >= sizes[i].low && params <= sizes[i].high);
    }
    ds_model_config c;
    assert_int_equal(ds_model_preset("gpt3", &c), DS_NOT_FOUND);
    assert_non_null(strstr(ds_error(), "deepseek-175b"));
}

/* ---- names and shapes ------------------------------------------------------------------------ */

typedef struct expected_param {
    const char *name;
    int64_t rows, columns; /* columns 0: one axis */
} expected_param;

static ds_model_config small(ds_architecture architecture) {
    ds_model_config c = {
        .architecture = architecture,
        .vocab_size = 11,
        .n_layers = 1,
        .hidden_size = 12,
        .n_heads = 3,
        .n_kv_heads = architecture == DS_LLAMA || architecture == DS_MOE ? 1 : 3,
        .head_dim = 4,
        .intermediate_size = 20,
        .max_seq_len = 7,
        .norm_eps = 1e-5f,
        .rope_theta = 10000,
        .tie_embeddings = architecture == DS_GPT2 || architecture == DS_BERT,
        .type_vocab_size = 2,
        .bos_token = -1,
        .eos_token = -1,
    };
    const bool is_deepseek = architecture == DS_DEEPSEEK_V2 || architecture == DS_DEEPSEEK_V3;
    c.qkv_bias = architecture == DS_QWEN2 || architecture == DS_QWEN2_MOE;
    c.qk_norm = architecture == DS_QWEN3 || architecture == DS_QWEN3_MOE;
    if (architecture == DS_MOE || architecture == DS_QWEN2_MOE || architecture == DS_QWEN3_MOE ||
        is_deepseek)
        c.n_experts = 4, c.experts_per_token = 2;
    if (architecture != DS_MOE && c.n_experts > 0)
        c.experts.intermediate_size = 8;
    if (architecture == DS_QWEN2_MOE)
        c.experts.n_shared = 1, c.experts.shared_size = 6, c.experts.shared_gate = true;
    if (is_deepseek)
        c.latent = (ds_latent_config){.kv_rank = 6, .plain_dim = 4, .rotary_dim = 4, .v_dim = 3};
    c.experts.by_sigmoid = architecture == DS_DEEPSEEK_V3;
    return c;
}

static void check_params(ds_architecture architecture, const expected_param *want, size_t n) {
    const ds_model_config c = small(architecture);
    ds_backend *backend = NULL;
    ds_state *s = NULL;
    ds_graph *g = ds_graph_new();
    assert_int_equal(ds_backend_open("ref", (ds_backend_opts){1}, &backend), DS_OK);
    assert_int_equal(ds_state_new(backend, &s), DS_OK);
    ds_model_build_training(g, &c, 2, 5);
    if (ds_state_declare(s, g) != DS_OK)
        fail_msg("%s", ds_error());
    for (size_t i = 0; i < n; i++) {
        const int64_t at = ds_state_find(s, want[i].name);
        if (at < 0)
            fail_msg("there is no %s", want[i].name);
        const ds_state_entry *e = ds_state_get(s, (size_t)at);
        assert_true(e->is_param);
        assert_int_equal(e->rank, want[i].columns ? 2 : 1);
        assert_int_equal(e->dims[0], want[i].rows);
        if (want[i].columns)
            assert_int_equal(e->dims[1], want[i].columns);
    }
    assert_int_equal(ds_state_count(s), n);
    ds_graph_free(g);
    ds_state_free(s);
    ds_backend_close(backend);
}

static void test_names_are_hugging_faces(void **state) {
    (void)state;
    static const expected_param gpt2[] = {
        {"transformer.wte.weight", 11, 12},
        {"transformer.wpe.weight", 7, 12},
        {"transformer.h.0.ln_1.weight", 12, 0},
        {"transformer.h.0.ln_1.bias", 12, 0},
        {"transformer.h.0.attn.c_attn.weight", 12, 36},
        {"transformer.h.0.attn.c_attn.bias", 36, 0},
        {"transformer.h.0.attn.c_proj.weight", 12, 12},
        {"transformer.h.0.attn.c_proj.bias", 12, 0},
        {"transformer.h.0.ln_2.weight", 12, 0},
        {"transformer.h.0.ln_2.bias", 12, 0},
        {"transformer.h.0.mlp.c_fc.weight", 12, 20},
        {"transformer.h.0.mlp.c_fc.bias", 20, 0},
        {"transformer.h.0.mlp.c_proj.weight", 20, 12},
        {"transformer.h.0.mlp.c_proj.bias", 12, 0},
        {"transformer.ln_f.weight", 12, 0},
        {"transformer.ln_f.bias", 12, 0},
    };
    static const expected_param llama[] = {
        {"model.embed_tokens.weight", 11, 12},
        {"model.layers.0.input_layernorm.weight", 12, 0},
        {"model.layers.0.self_attn.q_proj.weight", 12, 12},
        {"model.layers.0.self_attn.k_proj.weight", 4, 12},
        {"model.layers.0.self_attn.v_proj.weight", 4, 12},
        {"model.layers.0.self_attn.o_proj.weight", 12, 12},
        {"model.layers.0.post_attention_layernorm.weight", 12, 0},
        {"model.layers.0.mlp.gate_proj.weight", 20, 12},
        {"model.layers.0.mlp.up_proj.weight", 20, 12},
        {"model.layers.0.mlp.down_proj.weight", 12, 20},
        {"model.norm.weight", 12, 0},
        {"lm_head.weight", 11, 12},
    };
    static const expected_param bert[] = {
        {"bert.embeddings.word_embeddings.weight", 11, 12},
        {"bert.embeddings.position_embeddings.weight", 7, 12},
        {"bert.embeddings.token_type_embeddings.weight", 2, 12},
        {"bert.embeddings.LayerNorm.weight", 12, 0},
        {"bert.embeddings.LayerNorm.bias", 12, 0},
        {"bert.encoder.layer.0.attention.self.query.weight", 12, 12},
        {"bert.encoder.layer.0.attention.self.query.bias", 12, 0},
        {"bert.encoder.layer.0.attention.self.key.weight", 12, 12},
        {"bert.encoder.layer.0.attention.self.key.bias", 12, 0},
        {"bert.encoder.layer.0.attention.self.value.weight", 12, 12},
        {"bert.encoder.layer.0.attention.self.value.bias", 12, 0},
        {"bert.encoder.layer.0.attention.output.dense.weight", 12, 12},
        {"bert.encoder.layer.0.attention.output.dense.bias", 12, 0},
        {"bert.encoder.layer.0.attention.output.LayerNorm.weight", 12, 0},
        {"bert.encoder.layer.0.attention.output.LayerNorm.bias", 12, 0},
        {"bert.encoder.layer.0.intermediate.dense.weight", 20, 12},
        {"bert.encoder.layer.0.intermediate.dense.bias", 20, 0},
        {"bert.encoder.layer.0.output.dense.weight", 12, 20},
        {"bert.encoder.layer.0.output.dense.bias", 12, 0},
        {"bert.encoder.layer.0.output.LayerNorm.weight", 12, 0},
        {"bert.encoder.layer.0.output.LayerNorm.bias", 12, 0},
        {"bert.pooler.dense.weight", 12, 12},
        {"bert.pooler.dense.bias", 12, 0},
        {"cls.predictions.bias", 11, 0},
        {"cls.predictions.transform.dense.weight", 12, 12},
        {"cls.predictions.transform.dense.bias", 12, 0},
        {"cls.predictions.transform.LayerNorm.weight", 12, 0},
        {"cls.predictions.transform.LayerNorm.bias", 12, 0},
        {"cls.seq_relationship.weight", 2, 12},
        {"cls.seq_relationship.bias", 2, 0},
    };
    check_params(DS_GPT2, gpt2, sizeof gpt2 / sizeof *gpt2);
    check_params(DS_LLAMA, llama, sizeof llama / sizeof *llama);
    check_params(DS_BERT, bert, sizeof bert / sizeof *bert);
}

/* ---- configurations -------------------------------------------------------------------------- */

static void test_check_says_what_does_not_fit(void **state) {
    (void)state;
    ds_model_config c = preset("gpt2-124m");
    c.n_heads = c.n_kv_heads = 7;
    c.head_dim = 768 / 7;
    assert_int_equal(ds_model_config_check(&c), DS_INVALID);
    assert_string_equal(ds_error(), "hidden_size 768 is not a multiple of n_heads 7");
    c = preset("deepseek-67b");
    c.n_kv_heads = 7;
    assert_int_equal(ds_model_config_check(&c), DS_INVALID);
    assert_string_equal(ds_error(), "n_heads 64 is not a multiple of n_kv_heads 7");
    c = preset("llama-1b");
    c.vocab_size = -1;
    assert_int_equal(ds_model_config_check(&c), DS_INVALID);
    c = preset("llama-1b");
    c.rope_theta = 0;
    assert_int_equal(ds_model_config_check(&c), DS_INVALID);
    c = preset("tiny");
    c.norm_eps = 0;
    assert_int_equal(ds_model_config_check(&c), DS_INVALID);
    c = preset("tiny");
    c.dropout = 1;
    assert_int_equal(ds_model_config_check(&c), DS_INVALID);
    c = small(DS_MOE);
    c.experts_per_token = 5;
    assert_int_equal(ds_model_config_check(&c), DS_INVALID);
    assert_int_equal(ds_model_n_params(&c), 0);
}

static void test_build_refuses_long_sequences(void **state) {
    (void)state;
    const ds_model_config c = small(DS_GPT2);
    ds_graph *g = ds_graph_new();
    ds_model_build_training(g, &c, 2, 8);
    assert_false(ds_graph_ok(g));
    assert_non_null(strstr(ds_error(), "8 tokens is not in 1 … max_seq_len 7"));
    ds_graph_free(g);
    g = ds_graph_new();
    const ds_model_config bert = small(DS_BERT);
    ds_model_build_step(g, &bert, 1, 1, 7);
    assert_false(ds_graph_ok(g));
    ds_graph_free(g);
}

static char folder[] = "/tmp/ds-models-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return ds_folder_remove(folder) == DS_OK ? 0 : -1;
}

static ds_status load_text(const char *json, ds_model_config *out) {
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_int_equal(ds_file_replace(path, json, strlen(json)), DS_OK);
    return ds_model_config_load(folder, out);
}

/* Dropout is for training: what answers, rates or embeds has none. */
static void test_only_training_drops(void **state) {
    (void)state;
    static const char *const names[] = {"tiny", "bert-large"};
    for (size_t i = 0; i < 2; i++) {
        ds_model_config c = preset(names[i]);
        c.dropout = 0.5f;
        const ds_paged_cache cache = {.n_blocks = 2, .block_size = 4, .dtype = DS_F32};
        for (int which = 0; which < 5; which++) {
            if (c.architecture == DS_BERT && which > 2)
                continue;
            ds_graph *g = ds_graph_new();
            switch (which) {
            case 0: ds_model_build_training(g, &c, 1, 8); break;
            case 1: ds_model_build_logits(g, &c, 1, 8); break;
            case 2: ds_model_build_hidden(g, &c, 1, 8); break;
            case 3: ds_model_build_step(g, &c, 1, 1, 8); break;
            default: ds_model_build_paged(g, &c, 1, 1, 1, 2, &cache); break;
            }
            char *text = NULL;
            size_t size = 0;
            FILE *out = open_memstream(&text, &size);
            ds_graph_print(g, out, false);
            fclose(out);
            assert_true((strstr(text, "dropout") != NULL) == (which == 0));
            free(text);
            ds_graph_free(g);
        }
    }
}

static void test_config_json_round_trip(void **state) {
    (void)state;
    ds_model_config configs[DS_ARCHITECTURES];
    for (int i = 0; i < DS_ARCHITECTURES; i++)
        configs[i] = small((ds_architecture)i);
    configs[DS_MOE].router_loss_weight = 0.25f;
    configs[DS_GPT2].dropout = 0.125f;
    configs[DS_LLAMA].eos_token = 2;
    configs[DS_LLAMA].qkv_bias = configs[DS_LLAMA].output_bias = true;
    configs[DS_MISTRAL].sliding_window = 5;
    configs[DS_QWEN2].rope_scaling = (ds_rope_scaling){.kind = DS_ROPE_YARN,
                                                       .factor = 4,
                                                       .original = 6,
                                                       .beta_fast = 32,
                                                       .beta_slow = 1,
                                                       .magnitude = 1.25f};
    configs[DS_DEEPSEEK_V2].latent.q_rank = 8;
    configs[DS_DEEPSEEK_V3].experts.n_groups = configs[DS_DEEPSEEK_V3].experts.groups_per_token = 2;
    for (int i = 0; i < DS_ARCHITECTURES; i++) {
        ds_model_config back;
        char *text = ds_model_config_json(&configs[i]);
        assert_non_null(text);
        if (load_text(text, &back) != DS_OK)
            fail_msg("%s", ds_error());
        char *again = ds_model_config_json(&back);
        assert_string_equal(text, again);
        assert_int_equal(ds_model_n_params(&back), ds_model_n_params(&configs[i]));
        free(text);
        free(again);
    }
}

/* Numbers that no model has, beside sound ones. */
static void test_config_json_of_impossible_experts(void **state) {
    (void)state;
    static const struct {
        const char *key, *said;
    } bad[] = {{"\"moe_intermediate_size\": -10", "experts of"},
               {"\"n_routed_experts\": -4", "n_experts -4"},
               {"\"n_shared_experts\": -1", "shared"},
               {"\"first_k_dense_replace\": 9", "n_layers 1"},
               {"\"n_group\": 3, \"topk_group\": 1, \"topk_method\": \"group_limited_greedy\"",
                "3 groups"},
               {"\"qk_rope_head_dim\": 3", "even"},
               {"\"v_head_dim\": 0", "values of 0"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[1024];
        ds_model_config c;
        const char *const sound[] = {"\"moe_intermediate_size\": 8", "\"qk_rope_head_dim\": 4",
                                     "\"v_head_dim\": 3", "\"n_routed_experts\": 4"};
        int n =
            snprintf(text, sizeof text,
                     "{\"model_type\": \"deepseek_v2\", \"vocab_size\": 11, \"hidden_size\": 12, "
                     "\"num_hidden_layers\": 1, \"num_attention_heads\": 3, "
                     "\"intermediate_size\": 20, \"max_position_embeddings\": 7, "
                     "\"num_experts_per_tok\": 2, "
                     "\"kv_lora_rank\": 6, \"qk_nope_head_dim\": 4");
        for (size_t k = 0; k < 4; k++) /* each key once */
            if (strncmp(bad[i].key, sound[k], strcspn(sound[k], ":")) != 0)
                n += snprintf(text + n, sizeof text - (size_t)n, ", %s", sound[k]);
        snprintf(text + n, sizeof text - (size_t)n, ", %s}", bad[i].key);
        assert_int_equal(load_text(text, &c), DS_INVALID);
        if (!strstr(ds_error(), bad[i].said))
            fail_msg("%s: %s", bad[i].key, ds_error());
    }
}

static void test_config_json_of_strangers(void **state) {
    (void)state;
    ds_model_config c;
    /* transformers 5 keeps the rotary base in rope_parameters; several ends of text */
    static const char llama[] =
        "{\"model_type\": \"llama\", \"vocab_size\": 32, \"hidden_size\": 8, "
        "\"num_hidden_layers\": "
        "1, \"num_attention_heads\": 2, \"intermediate_size\": 16, \"max_position_embeddings\": "
        "64, "
        "\"eos_token_id\": [5, 6], \"rope_parameters\": {\"rope_type\": \"%s\", \"rope_theta\": "
        "500000.0}, \"hidden_act\": \"%s\", \"attention_bias\": %s}";
    char text[1024];
    snprintf(text, sizeof text, llama, "default", "silu", "false");
    if (load_text(text, &c) != DS_OK)
        fail_msg("%s", ds_error());
    assert_true(c.rope_theta == 500000.0f && c.eos_token == 5 && c.n_kv_heads == 2);
    snprintf(text, sizeof text, llama, "longrope", "silu", "false");
    assert_int_equal(load_text(text, &c), DS_UNSUPPORTED);
    assert_non_null(strstr(ds_error(), "longrope"));
    assert_non_null(strstr(ds_error(), "default, linear, llama3, yarn"));
    snprintf(text, sizeof text, llama, "llama3", "silu", "false");
    assert_int_equal(load_text(text, &c), DS_INVALID); /* by how much? */
    assert_non_null(strstr(ds_error(), "factor"));
    snprintf(text, sizeof text, llama, "default", "relu", "false");
    assert_int_equal(load_text(text, &c), DS_UNSUPPORTED);
    snprintf(text, sizeof text, llama, "default", "silu", "true");
    assert_int_equal(load_text(text, &c), DS_OK);
    assert_true(c.qkv_bias && c.output_bias && !c.mlp_bias);
    assert_int_equal(load_text("{\"model_type\": \"opt\"}", &c), DS_UNSUPPORTED);
    assert_non_null(strstr(ds_error(), "gpt2, llama, bert, mixtral, mistral, qwen2"));
    assert_int_equal(load_text("{\"model_type\": \"gpt2\", \"vocab_size\": 3}", &c), DS_INVALID);
    assert_non_null(strstr(ds_error(), "\"n_layer\" is missing"));
    assert_int_equal(load_text("{\"model_type\": \"gpt2\", \"vocab_size\": \"3\"}", &c),
                     DS_INVALID);
    assert_int_equal(load_text("[]", &c), DS_INVALID);
    assert_int_equal(load_text("{\"model_type\": 5", &c), DS_INVALID);
    assert_int_equal(ds_model_config_load("/nowhere", &c), DS_NOT_FOUND);
}

/* ---- loading --------------------------------------------------------------------------------- */

typedef struct llama2c_header {
    int32_t n[7]; /* width, inner, layers, heads, kv heads, vocabulary, tokens */
} llama2c_header;

static ds_status load_bin(const llama2c_header *header, size_t size_bytes, ds_model_config *out) {
    char path[128];
    unsigned char *bytes = calloc(1, size_bytes + sizeof *header);
    memcpy(bytes, header, sizeof *header);
    snprintf(path, sizeof path, "%s/model.bin", folder);
    assert_int_equal(ds_file_replace(path, bytes, size_bytes), DS_OK);
    free(bytes);
    return ds_model_config_load(path, out);
}

static void test_llama2c_header_is_checked(void **state) {
    (void)state;
    ds_model_config c;
    const llama2c_header good = {{8, 16, 2, 2, 1, 32, 10}};
    /* embedding, norms, attention, MLP, last norm, angles */
    const size_t right = 28 + 4 * (32 * 8 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 3 * 128) + 8 + 10 * 4);
    if (load_bin(&good, right, &c) != DS_OK)
        fail_msg("%s", ds_error());
    assert_true(c.tie_embeddings && c.hidden_size == 8 && c.n_kv_heads == 1 && c.head_dim == 4);
    assert_int_equal(load_bin(&good, right - 4, &c), DS_CORRUPT);
    assert_int_equal(load_bin(&good, right + 4, &c), DS_CORRUPT);
    assert_int_equal(load_bin(&good, right + 1, &c), DS_CORRUPT);
    assert_int_equal(load_bin(&good, 20, &c), DS_CORRUPT);
    llama2c_header untied = good;
    untied.n[5] = -32;
    assert_int_equal(load_bin(&untied, right, &c), DS_CORRUPT);
    assert_int_equal(load_bin(&untied, right + 4 * 32 * 8, &c), DS_OK);
    assert_false(c.tie_embeddings);
    static const int32_t bad[] = {0, -1, INT32_MAX, INT32_MIN, 3};
    for (int field = 0; field < 7; field++)
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            llama2c_header h = good;
            h.n[field] = bad[i];
            assert_int_equal(load_bin(&h, right, &c), DS_CORRUPT);
        }
    const llama2c_header quantised = {{0x616b3432, 2}};
    assert_int_equal(load_bin(&quantised, right, &c), DS_UNSUPPORTED);
}

/* ---- size ------------------------------------------------------------------------------------ */

static void test_175b_graph_is_small_and_quick(void **state) {
    (void)state;
    struct rusage before, after;
    const ds_model_config c = preset("deepseek-175b");
    const double start = ds_clock_s();
    getrusage(RUSAGE_SELF, &before);
    ds_graph *g = ds_graph_new();
    ds_model_build_training(g, &c, 1, 2048);
    assert_true(ds_graph_ok(g));
    ds_graph_free(g);
    getrusage(RUSAGE_SELF, &after);
    const double elapsed = ds_clock_s() - start;
    print_message("deepseek-175b: graph built in %.1f ms, %ld KiB\n", elapsed * 1e3,
                  after.ru_maxrss - before.ru_maxrss);
    assert_true(elapsed < 1);
    assert_true(after.ru_maxrss - before.ru_maxrss < 64 << 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_175b_graph_is_small_and_quick), /* first: peak memory only grows */
        cmocka_unit_test(test_published_parameter_counts),
        cmocka_unit_test(test_every_preset_is_sound),
        cmocka_unit_test(test_names_are_hugging_faces),
        cmocka_unit_test(test_check_says_what_does_not_fit),
        cmocka_unit_test(test_build_refuses_long_sequences),
        cmocka_unit_test(test_only_training_drops),
        cmocka_unit_test(test_config_json_round_trip),
        cmocka_unit_test(test_config_json_of_impossible_experts),
        cmocka_unit_test(test_config_json_of_strangers),
        cmocka_unit_test(test_llama2c_header_is_checked),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
