/* The model that a configuration asks for: every key of the model block has its effect, or is
 * refused with the reason. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "train/model_choice.h"

static ds_status choose(const char *block, ds_model_config *m) {
    char yaml[256];
    ds_train_config c;
    int64_t seq_len = 0;
    snprintf(yaml, sizeof yaml, "model: {%s}\n", block);
    if (ds_train_config_parse("f.yaml", yaml, strlen(yaml), NULL, 0, &c) != DS_OK)
        fail_msg("%s: %s", block, ds_error());
    const ds_status status = ds_train_choose_model(&c, m, &seq_len);
    ds_train_config_free(&c);
    return status;
}

static void test_without_effect_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *block, *message;
    } cases[] = {
        {"preset: tiny, n_experts: 4", "model (tiny): n_experts: a gpt2 model has no experts; set "
                                       "model.architecture to moe"},
        {"preset: llama-1b, experts_per_token: 2",
         "model (llama-1b): experts_per_token: a llama model has no experts; set "
         "model.architecture to moe"},
        {"preset: gpt2-124m, rope_theta: 500000",
         "model (gpt2-124m): rope_theta: a gpt2 model learns its positions and rotates nothing; "
         "accepted with llama and moe"},
        {"preset: bert-large, tie_embeddings: false",
         "model (bert-large): tie_embeddings: a bert model always shares them; set it to auto"},
        {"preset: gpt2-124m, n_kv_heads: 4", "model (gpt2-124m): gpt2 has no grouped-query "
                                             "attention: n_kv_heads must be n_heads"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_model_config m;
        assert_int_equal(choose(cases[i].block, &m), DS_INVALID);
        assert_string_equal(ds_error(), cases[i].message);
    }
}

/* One key at a time against the preset: the model's own description must differ. */
static void test_every_key_has_its_effect(void **state) {
    (void)state;
    static const char *const keys[] = {
        "n_layers: 3",       "hidden_size: 512",     "n_heads: 16",
        "n_kv_heads: 2",     "vocab_size: 777",      "intermediate_size: 99",
        "max_seq_len: 64",   "dropout: 0.25",        "tie_embeddings: true",
        "rope_theta: 12345", "norm_eps: 1e-3",       "architecture: gpt2, n_kv_heads: 32",
        "n_experts: 3",      "experts_per_token: 1",
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const bool about_experts = strstr(keys[i], "experts") != NULL;
        const char *base =
            about_experts ? "preset: llama-1b, architecture: moe" : "preset: llama-1b";
        char block[200];
        ds_model_config plain, changed;
        snprintf(block, sizeof block, "%s, %s", base, keys[i]);
        assert_int_equal(choose(base, &plain), DS_OK);
        if (choose(block, &changed) != DS_OK)
            fail_msg("%s: %s", block, ds_error());
        if (memcmp(&plain, &changed, sizeof plain) == 0)
            fail_msg("%s changes nothing", block);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_effect_is_refused),
        cmocka_unit_test(test_every_key_has_its_effect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
