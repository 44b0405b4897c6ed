/* Loading checkpoints that others wrote: older names, lower precisions, tensors that no model
 * needs; and refusals, which leave the state as it was. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/half.h"
#include "deepseek/models.h"
#include "deepseek/safetensors.h"

static const char GPT2[] = DS_TEST_DATA "/goldens/gpt2",
                  MIXTRAL[] = DS_TEST_DATA "/goldens/mixtral",
                  DEEPSEEK_V3[] = DS_TEST_DATA "/goldens/deepseek_v3";
static char folder[] = "/tmp/ds-load-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return ds_folder_remove(folder) == DS_OK ? 0 : -1;
}

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

typedef struct target {
    ds_model_config config;
    ds_backend *backend;
    ds_state *state;
} target;

static void open_target(target *t, const char *config) {
    require(ds_model_config_load(config, &t->config));
    require(ds_backend_open("ref", (ds_backend_opts){1}, &t->backend));
    require(ds_state_new(t->backend, &t->state));
    ds_graph *g = ds_graph_new();
    ds_model_build_logits(g, &t->config, 1, 4);
    require(ds_state_declare(t->state, g));
    require(ds_state_init(t->state, 1));
    ds_graph_free(g);
}

static void close_target(target *t) {
    ds_state_free(t->state);
    ds_backend_close(t->backend);
}

/* How the golden checkpoint is written anew. */
typedef struct variant {
    const char *strip;   /* leading part of the names that is left out */
    const char *drop;    /* this tensor is left out */
    const char *whole;   /* this tensor becomes one of whole numbers */
    const char *more[2]; /* tensors of one number that are added */
    bool bf16;
    const char *from; /* NULL: GPT-2's */
} variant;

static void write_variant(variant v, char path[256]) {
    ds_safetensors *from = NULL;
    ds_safetensors_entry entries[64];
    const ds_safetensor *sources[64];
    size_t n = 0;
    static const float one = 1;
    require(ds_safetensors_open(v.from ? v.from : GPT2, &from));
    for (size_t i = 0; i < ds_safetensors_count(from); i++) {
        const ds_safetensor *t = ds_safetensors_at(from, i);
        assert_true(n + 2 < sizeof entries / sizeof *entries);
        if (v.drop && strcmp(t->name, v.drop) == 0)
            continue;
        const size_t cut =
            v.strip && strncmp(t->name, v.strip, strlen(v.strip)) == 0 ? strlen(v.strip) : 0;
        sources[n] = t;
        entries[n] = (ds_safetensors_entry){
            .name = t->name + cut, .dtype = v.bf16 ? DS_BF16 : DS_F32, .rank = t->rank};
        if (v.whole && strcmp(t->name, v.whole) == 0)
            entries[n].dtype = DS_I32;
        memcpy(entries[n++].dims, t->dims, sizeof t->dims);
    }
    const size_t n_copied = n;
    for (int i = 0; i < 2 && v.more[i]; i++)
        entries[n++] = (ds_safetensors_entry){v.more[i], DS_F32, 1, {1}};
    ds_safetensors_writer *w = NULL;
    snprintf(path, 256, "%s/model.safetensors", folder);
    require(ds_safetensors_writer_new(path, entries, n, NULL, &w));
    for (size_t i = 0; i < n_copied; i++) {
        const float *values = sources[i]->data;
        const size_t count = sources[i]->size_bytes / sizeof *values;
        uint16_t *low = malloc(count * sizeof *low);
        for (size_t k = 0; k < count; k++)
            low[k] = ds_f32_to_bf16(values[k]);
        require(v.bf16 ? ds_safetensors_writer_write(w, i, 0, low, count * sizeof *low)
                       : ds_safetensors_writer_write(w, i, 0, values, count * sizeof *values));
        free(low);
    }
    for (size_t i = n_copied; i < n; i++)
        require(ds_safetensors_writer_write(w, i, 0, &one, sizeof one));
    require(ds_safetensors_writer_close(w, NULL));
    ds_safetensors_close(from);
}

/* The state holds the golden's values, rounded to bf16 if so. */
static void check_values(const target *t, bool bf16) {
    ds_safetensors *from = NULL;
    require(ds_safetensors_open(GPT2, &from));
    for (size_t i = 0; i < ds_state_count(t->state); i++) {
        const ds_state_entry *e = ds_state_get(t->state, i);
        const ds_safetensor *want = NULL;
        require(ds_safetensors_find(from, e->name, &want));
        const float *values = want->data;
        float *got = malloc(want->size_bytes);
        require(ds_state_read(t->state, e->name, got, want->size_bytes));
        for (size_t k = 0; k < want->size_bytes / sizeof *got; k++)
            assert_true(got[k] == (bf16 ? ds_bf16_to_f32(ds_f32_to_bf16(values[k])) : values[k]));
        free(got);
    }
    ds_safetensors_close(from);
}

static void test_published_variants(void **state) {
    (void)state;
    const variant variants[] = {
        {0},
        {.strip = "transformer."},
        {.strip = "transformer.", .more = {"h.0.attn.bias", "h.1.attn.masked_bias"}},
        {.more = {"lm_head.weight"}}, /* the tied projection under its second name */
        {.bf16 = true},
    };
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        target t = {0};
        char path[256];
        open_target(&t, GPT2);
        write_variant(variants[i], path);
        require(ds_model_load(i % 2 ? folder : path, &t.config, t.state));
        check_values(&t, variants[i].bf16);
        close_target(&t);
    }
}

/* DeepSeek-V3's checkpoints go on after the last layer, with layers that guess further tokens. */
static void test_layers_past_the_last(void **state) {
    (void)state;
    target plain = {0}, longer = {0};
    char path[256], name[64];
    open_target(&plain, DEEPSEEK_V3);
    open_target(&longer, DEEPSEEK_V3);
    snprintf(name, sizeof name, "model.layers.%lld.eh_proj.weight",
             (long long)longer.config.n_layers);
    write_variant((variant){.from = DEEPSEEK_V3, .more = {name}}, path);
    require(ds_model_load(DEEPSEEK_V3, &plain.config, plain.state));
    require(ds_model_load(path, &longer.config, longer.state));
    for (size_t i = 0; i < ds_state_count(plain.state); i++) {
        const ds_state_entry *e = ds_state_get(plain.state, i);
        const size_t size_bytes = (size_t)ds_count(e->dims, e->rank) * sizeof(float);
        float *want = malloc(size_bytes), *got = malloc(size_bytes);
        require(ds_state_read(plain.state, e->name, want, size_bytes));
        require(ds_state_read(longer.state, e->name, got, size_bytes));
        assert_memory_equal(want, got, size_bytes);
        free(got);
        free(want);
    }
    name[strlen("model.layers.")]--; /* of a layer that there is */
    write_variant((variant){.from = DEEPSEEK_V3, .more = {name}}, path);
    assert_int_equal(ds_model_load(path, &longer.config, longer.state), DS_INVALID);
    assert_non_null(strstr(ds_error(), name));
    close_target(&longer);
    close_target(&plain);
}

static void check_refusal(variant v, ds_status status, const char *named) {
    target t = {0};
    char path[256];
    float before[32], after[32];
    open_target(&t, GPT2);
    write_variant(v, path);
    require(ds_state_read(t.state, "transformer.ln_f.weight", before, sizeof before));
    assert_int_equal(ds_model_load(path, &t.config, t.state), status);
    if (!strstr(ds_error(), named))
        fail_msg("\"%s\" does not name %s", ds_error(), named);
    require(ds_state_read(t.state, "transformer.ln_f.weight", after, sizeof after));
    assert_memory_equal(before, after, sizeof before);
    close_target(&t);
}

static void test_refusals(void **state) {
    (void)state;
    check_refusal((variant){.drop = "transformer.h.1.mlp.c_fc.bias"}, DS_NOT_FOUND,
                  "transformer.h.1.mlp.c_fc.bias");
    check_refusal((variant){.more = {"transformer.h.2.ln_1.bias"}}, DS_INVALID,
                  "transformer.h.2.ln_1.bias");
    check_refusal((variant){.drop = "transformer.ln_f.bias", .more = {"transformer.ln_f.bias"}},
                  DS_INVALID, "F32[1], the model wants F32[32]");
    check_refusal((variant){.whole = "transformer.ln_f.bias"}, DS_INVALID,
                  "\"transformer.ln_f.bias\" is I32[32], the model wants F32[32]");
    target t = {0};
    open_target(&t, GPT2); /* a checkpoint of another family */
    assert_int_equal(ds_model_load(MIXTRAL, &t.config, t.state), DS_INVALID);
    assert_non_null(strstr(ds_error(), "F32[61,32], the model wants F32[67,32]"));
    close_target(&t);
}

/* Every allocation fails once: the call says so, leaks nothing, and succeeds the next time. */
static void test_out_of_memory(void **state) {
    (void)state;
    target t = {0};
    open_target(&t, MIXTRAL);
    bool done = false;
    long n_refused = 0;
    for (long n = 1; !done; n++) {
        assert_true(n < 10000);
        ds_model_config config;
        ds_fault_arm(DS_FAULT_ALLOC, n);
        ds_status status = ds_model_config_load(MIXTRAL, &config);
        if (status == DS_OK)
            status = ds_model_load(MIXTRAL, &config, t.state);
        done = status == DS_OK && !ds_fault_hit(DS_FAULT_ALLOC);
        if (status != DS_OK)
            assert_int_equal(status, DS_OUT_OF_MEMORY);
        ds_fault_arm(DS_FAULT_ALLOC, 0);
        n_refused += done ? 0 : 1;
    }
    print_message("%ld allocations failed, one at a time\n", n_refused);
    assert_true(n_refused >= 5);
    require(ds_model_load(MIXTRAL, &t.config, t.state));
    close_target(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_variants),
        cmocka_unit_test(test_layers_past_the_last),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
