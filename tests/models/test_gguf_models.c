/* GGUF models against the checkpoints that they were made of: the same configuration, and every
 * parameter bit for bit; and refusals, which leave the state as it was. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepseek/inference.h"
#include "deepseek/models.h"

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

typedef struct target {
    ds_model_config config;
    ds_backend *backend;
    ds_state *state;
} target;

static void open_target(target *t, const char *config, bool hidden_only) {
    require(ds_model_config_load(config, &t->config));
    require(ds_backend_open("ref", (ds_backend_opts){1}, &t->backend));
    require(ds_state_new(t->backend, &t->state));
    ds_graph *g = ds_graph_new();
    if (hidden_only)
        ds_model_build_hidden(g, &t->config, 1, 4);
    else
        ds_model_build_logits(g, &t->config, 1, 4);
    require(ds_state_declare(t->state, g));
    require(ds_state_init(t->state, 1));
    ds_graph_free(g);
}

static void close_target(target *t) {
    ds_state_free(t->state);
    ds_backend_close(t->backend);
}

static float *read_values(const target *t, const ds_state_entry *e, size_t *n) {
    *n = (size_t)ds_count(e->dims, e->rank);
    float *values = malloc(*n * sizeof *values);
    assert_non_null(values);
    require(ds_state_read(t->state, e->name, values, *n * sizeof *values));
    return values;
}

static void expect_same_parameters(const target *a, const target *b) {
    assert_int_equal(ds_state_count(a->state), ds_state_count(b->state));
    for (size_t i = 0; i < ds_state_count(a->state); i++) {
        const ds_state_entry *e = ds_state_get(a->state, i);
        const int64_t other = ds_state_find(b->state, e->name);
        size_t n = 0, m = 0;
        assert_true(other >= 0);
        float *x = read_values(a, e, &n);
        float *y = read_values(b, ds_state_get(b->state, (size_t)other), &m);
        assert_int_equal(n, m);
        for (size_t k = 0; k < n; k++)
            if (x[k] != y[k])
                fail_msg("%s: element %zu is %g, not %g", e->name, k, (double)x[k], (double)y[k]);
        free(x);
        free(y);
    }
}

static void expect_same_config(const ds_model_config *a, const ds_model_config *b) {
    ds_model_config x = *a, y = *b;
    /* the dropout of training and a loss weight are not told by the format, nor ends of texts by
     * these files */
    x.dropout = y.dropout = 0;
    x.bos_token = y.bos_token = x.eos_token = y.eos_token = -1;
    char *one = ds_model_config_json(&x), *other = ds_model_config_json(&y);
    assert_string_equal(one, other);
    free(one);
    free(other);
}

static void models_are_those_they_were_made_of(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool hidden_only;
    } cases[] = {
        {"llama", false}, {"qwen2", false}, {"qwen3", false}, {"gpt2", false}, {"bert", true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char file[256], folder[256];
        target a, b;
        snprintf(file, sizeof file, DS_TEST_DATA "/gguf/%s.gguf", cases[i].name);
        snprintf(folder, sizeof folder, DS_TEST_DATA "/goldens/%s", cases[i].name);
        open_target(&a, file, cases[i].hidden_only);
        open_target(&b, folder, cases[i].hidden_only);
        expect_same_config(&a.config, &b.config);
        require(ds_model_load(file, &a.config, a.state));
        require(ds_model_load(folder, &b.config, b.state));
        expect_same_parameters(&a, &b);
        close_target(&a);
        close_target(&b);
    }
}

static void divisors_of_frequencies_are_llama_3s(void **state) {
    (void)state;
    target t;
    open_target(&t, DS_TEST_DATA "/gguf/llama3.gguf", false);
    assert_int_equal(t.config.rope_scaling.kind, DS_ROPE_LLAMA3);
    assert_true(t.config.rope_scaling.factor == 8);
    assert_int_equal(t.config.rope_scaling.original, 8192);
    assert_true(t.config.qkv_bias && t.config.output_bias && t.config.mlp_bias);
    require(ds_model_load(DS_TEST_DATA "/gguf/llama3.gguf", &t.config, t.state));
    close_target(&t);
}

static bool lies_in_the_file(ds_state *state, const ds_state_entry *e) {
    const size_t size = (size_t)ds_count(e->dims, e->rank) * ds_dtype_size(e->dtype);
    void *data = malloc(size);
    require(ds_state_read(state, e->name, data, size));
    const ds_status status = ds_state_write(state, e->name, data, size);
    free(data);
    return status == DS_INVALID;
}

/* Matrices stay in the floats of the file, or in those that are asked for; and in the file itself
 * unless that has another type, or rows in another order. */
static void matrices_are_kept_as_the_file_has_them(void **state) {
    (void)state;
    static const struct {
        const char *storage;
        ds_dtype query, up;
        bool up_in_file;
    } cases[] = {{NULL, DS_BF16, DS_F16, true},
                 {"f32", DS_F32, DS_F32, false},
                 {"f16", DS_F16, DS_F16, true}};
    for (size_t i = 0; i < 3; i++) {
        ds_model *m = NULL;
        require(ds_model_from_pretrained(DS_TEST_DATA "/gguf/llama3.gguf",
                                         (ds_model_opts){.n_threads = 1, .dtype = cases[i].storage},
                                         &m));
        ds_state *kept = ds_model_get_state(m);
        const struct {
            const char *name;
            ds_dtype dtype;
            bool in_file;
        } entries[] = {{"model.layers.0.self_attn.q_proj.weight", cases[i].query, false},
                       {"model.layers.1.mlp.up_proj.weight", cases[i].up, cases[i].up_in_file},
                       {"model.norm.weight", DS_F32, true}};
        for (size_t k = 0; k < 3; k++) {
            const int64_t at = ds_state_find(kept, entries[k].name);
            assert_true(at >= 0);
            const ds_state_entry *e = ds_state_get(kept, (size_t)at);
            assert_int_equal(e->dtype, entries[k].dtype);
            assert_int_equal(lies_in_the_file(kept, e), entries[k].in_file);
        }
        ds_model_free(m);
    }
}

/* Parameters of another shape are refused before anything is written. */
static void a_state_of_another_shape_is_left_alone(void **state) {
    (void)state;
    target t, untouched;
    open_target(&t, DS_TEST_DATA "/goldens/qwen3", false);
    open_target(&untouched, DS_TEST_DATA "/goldens/qwen3", false);
    assert_int_equal(ds_model_load(DS_TEST_DATA "/gguf/llama.gguf", &t.config, t.state),
                     DS_INVALID);
    assert_non_null(strstr(ds_error(), "token_embd.weight"));
    expect_same_parameters(&t, &untouched);
    close_target(&t);
    close_target(&untouched);
}

static void what_is_not_supported_is_named(void **state) {
    (void)state;
    ds_model_config c;
    assert_int_equal(ds_model_config_load(DS_TEST_DATA "/gguf/types.gguf", &c), DS_UNSUPPORTED);
    assert_non_null(strstr(ds_error(), "\"none\""));
    assert_non_null(strstr(ds_error(), "qwen3"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_are_those_they_were_made_of),
        cmocka_unit_test(divisors_of_frequencies_are_llama_3s),
        cmocka_unit_test(matrices_are_kept_as_the_file_has_them),
        cmocka_unit_test(a_state_of_another_shape_is_left_alone),
        cmocka_unit_test(what_is_not_supported_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
