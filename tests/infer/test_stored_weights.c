/* Weights in memory as they are stored: every family computes with matrices in bf16 and f16 what it
 * computes with their rounded values in f32; matrices stay in the mapped file where they can; no
 * copies are kept; and such a state refuses to be written or trained. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/half.h"
#include "deepseek/inference.h"
#include "deepseek/safetensors.h"
#include "models/storage.h"

static const char *const families[] = {"gpt2",    "llama",       "llama3",      "mistral",
                                       "qwen2",   "qwen3",       "qwen2_moe",   "qwen3_moe",
                                       "mixtral", "deepseek_v2", "deepseek_v3", "bert"};
enum { N_FAMILIES = sizeof families / sizeof *families, MOST_TOKENS = 20 };

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

static const char *golden(const char *family) {
    static char folder[512];
    snprintf(folder, sizeof folder, "%s/goldens/%s", DS_TEST_DATA, family);
    return folder;
}

static ds_model *open_model(const char *folder, const char *device, const char *dtype) {
    ds_model *m = NULL;
    require(ds_model_from_pretrained(
        folder, (ds_model_opts){.device = device, .n_threads = 2, .dtype = dtype}, &m));
    return m;
}

/* The same model in f32 memory of its own, which may be written. */
typedef struct plain {
    ds_backend *backend;
    ds_state *state;
} plain;

static plain open_plain(const char *folder, const char *device, const ds_model_config *c) {
    plain p = {0};
    ds_graph *g = ds_graph_new();
    require(ds_backend_open(device, (ds_backend_opts){2}, &p.backend));
    require(ds_state_new(p.backend, &p.state));
    ds_model_build_logits(g, c, 1, 1);
    require(ds_state_declare(p.state, g));
    require(ds_model_load(folder, c, p.state));
    ds_graph_free(g);
    return p;
}

static void close_plain(plain *p) {
    ds_state_free(p->state);
    ds_backend_close(p->backend);
}

static ds_program *compile(ds_state *state, const ds_model_config *c, int64_t n_tokens,
                           ds_precision precision) {
    ds_program *p = NULL;
    ds_graph *g = ds_graph_new();
    ds_model_build_logits(g, c, 1, n_tokens);
    require(ds_compile(g, state, (ds_compile_opts){.precision = precision}, &p));
    ds_graph_free(g);
    return p;
}

/* Logits [n_tokens, vocab_size] of some text, the caller's to free(). */
static float *logits_of(ds_state *state, const ds_model_config *c, int64_t n_tokens,
                        ds_precision precision) {
    ds_program *p = compile(state, c, n_tokens, precision);
    int32_t ids[MOST_TOKENS], zeros[MOST_TOKENS] = {0};
    const int32_t length = (int32_t)n_tokens;
    for (int i = 0; i < n_tokens; i++)
        ids[i] = (int32_t)((i * 37 + 5) % c->vocab_size);
    require(ds_program_write(p, "tokens", ids, (size_t)n_tokens * sizeof *ids));
    if (c->architecture == DS_BERT) {
        require(ds_program_write(p, "segment_ids", zeros, (size_t)n_tokens * sizeof *zeros));
        require(ds_program_write(p, "lengths", &length, sizeof length));
    }
    require(ds_program_run(p));
    const size_t size = (size_t)(n_tokens * c->vocab_size) * sizeof(float);
    float *logits = malloc(size);
    assert_non_null(logits);
    require(ds_program_read(p, "logits", logits, size));
    ds_program_free(p);
    return logits;
}

static float rounded(float x, ds_dtype dtype) {
    return dtype == DS_BF16 ? ds_bf16_to_f32(ds_f32_to_bf16(x)) : ds_f16_to_f32(ds_f32_to_f16(x));
}

/* Gives `to` the numbers that the stored state has. Returns how many matrices that concerns. */
static int round_like(ds_state *to, const ds_state *stored) {
    int n_rounded = 0;
    for (size_t i = 0; i < ds_state_count(stored); i++) {
        const ds_state_entry *e = ds_state_get(stored, i);
        if (!e->is_param || e->dtype == DS_F32)
            continue;
        const size_t n = (size_t)ds_count(e->dims, e->rank);
        float *x = malloc(n * sizeof *x);
        require(ds_state_read(to, e->name, x, n * sizeof *x));
        for (size_t k = 0; k < n; k++)
            x[k] = rounded(x[k], e->dtype);
        require(ds_state_write(to, e->name, x, n * sizeof *x));
        free(x);
        n_rounded++;
    }
    return n_rounded;
}

static void check_family(const char *family, const char *device, const char *dtype) {
    static const int64_t lengths[] = {1, 5, 17};
    ds_model *stored = open_model(golden(family), device, dtype);
    const ds_model_config *c = ds_model_get_config(stored);
    plain f32 = open_plain(golden(family), device, c);
    assert_true(round_like(f32.state, ds_model_get_state(stored)) > 8);
    for (int l = 0; l < 3; l++) {
        float *got = logits_of(ds_model_get_state(stored), c, lengths[l], DS_PRECISION_FULL);
        float *want = logits_of(f32.state, c, lengths[l], DS_PRECISION_FULL);
        for (int64_t i = 0; i < lengths[l] * c->vocab_size; i++)
            if (!(fabsf(got[i] - want[i]) <= 2e-5f * (1 + fabsf(want[i]))))
                fail_msg("%s on %s as %s, %d tokens: logit %d is %.9g, not %.9g", family, device,
                         dtype, (int)lengths[l], (int)i, (double)got[i], (double)want[i]);
        free(got);
        free(want);
    }
    close_plain(&f32);
    ds_model_free(stored);
}

static void test_families(void **unused) {
    (void)unused;
    for (int f = 0; f < N_FAMILIES; f++) {
        check_family(families[f], "cpu", "bf16");
        check_family(families[f], "cpu", "f16");
        check_family(families[f], "ref", "bf16");
    }
}

/* ---- files of bf16 --------------------------------------------------------------------------- */

static char folder[] = "/tmp/ds-stored-XXXXXX";

static void copy_file(const char *from, const char *name) {
    char path[600], *text = NULL;
    size_t size = 0;
    snprintf(path, sizeof path, "%s/%s", from, name);
    require(ds_file_read(path, (size_t)1 << 24, &text, &size));
    snprintf(path, sizeof path, "%s/%s", folder, name);
    require(ds_file_replace(path, text, size));
    free(text);
}

/* Writes the golden model's tensors as bf16 into the folder. */
static void publish_in_bf16(const char *family) {
    char path[600];
    ds_safetensors *from = NULL;
    ds_safetensors_writer *to = NULL;
    snprintf(path, sizeof path, "%s/model.safetensors", golden(family));
    require(ds_safetensors_open(path, &from));
    const size_t n = ds_safetensors_count(from);
    ds_safetensors_entry *entries = calloc(n, sizeof *entries);
    for (size_t i = 0; i < n; i++) {
        const ds_safetensor *t = ds_safetensors_at(from, i);
        entries[i] = (ds_safetensors_entry){.name = t->name, .dtype = DS_BF16, .rank = t->rank};
        memcpy(entries[i].dims, t->dims, sizeof t->dims);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    require(ds_safetensors_writer_new(path, entries, n, NULL, &to));
    for (size_t i = 0; i < n; i++) {
        const ds_safetensor *t = ds_safetensors_at(from, i);
        const size_t count = t->size_bytes / sizeof(float);
        uint16_t *half = malloc(count * sizeof *half);
        for (size_t k = 0; k < count; k++)
            half[k] = ds_f32_to_bf16(((const float *)t->data)[k]);
        require(ds_safetensors_writer_write(to, i, 0, half, count * sizeof *half));
        free(half);
    }
    require(ds_safetensors_writer_close(to, NULL));
    free(entries);
    ds_safetensors_close(from);
    copy_file(golden(family), "config.json");
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return ds_folder_remove(folder) == DS_OK ? 0 : -1;
}

static ds_dtype dtype_of(ds_model *m, const char *name) {
    const int64_t i = ds_state_find(ds_model_get_state(m), name);
    assert_true(i >= 0);
    return ds_state_get(ds_model_get_state(m), (size_t)i)->dtype;
}

static void test_types_are_the_files_unless_told_otherwise(void **unused) {
    (void)unused;
    static const char matrix[] = "model.layers.0.mlp.up_proj.weight",
                      vector[] = "model.norm.weight";
    static const struct {
        const char *asked;
        ds_dtype got;
    } cases[] = {{NULL, DS_BF16}, {"auto", DS_BF16}, {"f32", DS_F32}, {"f16", DS_F16}};
    publish_in_bf16("llama");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_model *m = open_model(folder, "cpu", cases[i].asked);
        assert_int_equal(dtype_of(m, matrix), cases[i].got);
        assert_int_equal(dtype_of(m, vector), DS_F32);
        ds_model_free(m);
    }
    ds_model *m = open_model(golden("llama"), "cpu", "auto");
    assert_int_equal(dtype_of(m, matrix), DS_F32);
    ds_model_free(m);
    assert_int_equal(ds_model_from_pretrained(folder, (ds_model_opts){.dtype = "fp8"}, &m),
                     DS_INVALID);
    assert_non_null(strstr(ds_error(), "auto, f32, bf16, f16"));
}

/* What lies in the file is mapped read-only: writing is refused, not tried. */
static void test_matrices_stay_in_the_file(void **unused) {
    (void)unused;
    publish_in_bf16("llama");
    ds_model *m = open_model(folder, "cpu", NULL);
    ds_state *state = ds_model_get_state(m);
    for (size_t i = 0; i < ds_state_count(state); i++) {
        const ds_state_entry *e = ds_state_get(state, i);
        const size_t size = (size_t)ds_count(e->dims, e->rank) * ds_dtype_size(e->dtype);
        void *data = malloc(size);
        require(ds_state_read(state, e->name, data, size));
        assert_int_equal(ds_state_write(state, e->name, data, size),
                         e->rank >= 2 ? DS_INVALID : DS_OK);
        free(data);
    }
    assert_int_equal(ds_state_init(state, 1), DS_INVALID);
    ds_model_free(m);
    m = open_model(folder, "cpu", "f32"); /* its own memory */
    require(ds_state_init(ds_model_get_state(m), 1));
    ds_model_free(m);
}

/* A header as long as this moves all data to an odd address: then it is copied. */
static void test_unaligned_data(void **unused) {
    (void)unused;
    char path[600], *text = NULL;
    size_t size = 0;
    publish_in_bf16("llama");
    ds_model *m = open_model(folder, "cpu", NULL);
    float *want = logits_of(ds_model_get_state(m), ds_model_get_config(m), 3, DS_PRECISION_FULL);
    const int64_t n = 3 * ds_model_get_config(m)->vocab_size;
    ds_model_free(m);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    require(ds_file_read(path, (size_t)1 << 24, &text, &size));
    uint64_t header = 0;
    memcpy(&header, text, sizeof header);
    char *moved = malloc(size + 1);
    const size_t end = 8 + (size_t)header;
    memcpy(moved, text, end);
    moved[end] = ' ';
    memcpy(moved + end + 1, text + end, size - end);
    header++;
    memcpy(moved, &header, sizeof header);
    require(ds_file_replace(path, moved, size + 1));
    m = open_model(folder, "cpu", NULL);
    float *got = logits_of(ds_model_get_state(m), ds_model_get_config(m), 3, DS_PRECISION_FULL);
    assert_memory_equal(got, want, (size_t)n * sizeof *got);
    ds_model_free(m);
    free(got), free(want), free(text), free(moved);
}

static void test_no_copies_are_kept(void **unused) {
    (void)unused;
    static const ds_precision precisions[] = {DS_PRECISION_FULL, DS_PRECISION_BF16,
                                              DS_PRECISION_FP16};
    static const char *const decoders[] = {"llama", "mixtral", "deepseek_v3"};
    for (int d = 0; d < 3; d++) {
        publish_in_bf16(decoders[d]);
        ds_model *m = open_model(folder, "cpu", NULL);
        for (int i = 0; i < 3; i++) {
            ds_program *p =
                compile(ds_model_get_state(m), ds_model_get_config(m), 4, precisions[i]);
            const ds_memory_report *r = ds_program_memory(p);
            assert_true(r->derived < r->parameters / 1000); /* some vector, at most */
            ds_program_free(p);
        }
        ds_model_free(m);
    }
}

/* Names that need not be there are looked for without a word: wording what is near each of them
 * took a third of a second for a model of 30 layers. */
static void test_nothing_is_said(void **unused) {
    (void)unused;
    ds_model_config config;
    assert_int_equal(ds_model_preset("no such preset", &config), DS_NOT_FOUND);
    const ds_storage *as_stored = NULL;
    char before[256];
    require(ds_storage_find(NULL, &as_stored));
    snprintf(before, sizeof before, "%s", ds_error());
    for (int f = 0; f < N_FAMILIES; f++) {
        ds_graph *g = ds_graph_new();
        ds_state *state = NULL;
        ds_backend *backend = NULL;
        require(ds_model_config_load(golden(families[f]), &config));
        require(ds_backend_open("cpu", (ds_backend_opts){1}, &backend));
        require(ds_state_new(backend, &state));
        ds_model_build_logits(g, &config, 1, 1);
        require(ds_model_load_stored(golden(families[f]), &config, g, as_stored, state));
        assert_string_equal(ds_error(), before);
        ds_graph_free(g);
        ds_state_free(state);
        ds_backend_close(backend);
    }
}

static void test_is_not_trained(void **unused) {
    (void)unused;
    ds_program *p = NULL;
    publish_in_bf16("llama");
    ds_model *m = open_model(folder, "cpu", NULL);
    ds_graph *g = ds_graph_new();
    ds_model_build_training(g, ds_model_get_config(m), 1, 4);
    assert_int_equal(ds_compile(g, ds_model_get_state(m), (ds_compile_opts){.loss = "loss"}, &p),
                     DS_INVALID);
    assert_non_null(strstr(ds_error(), "not trained"));
    ds_graph_free(g);
    ds_model_free(m);
}

/* In low precision, products of stored matrices come to what the casts of masters come to. */
static void test_low_precision(void **unused) {
    (void)unused;
    static const struct {
        ds_precision precision;
        float tolerance;
    } cases[] = {{DS_PRECISION_BF16, 2e-2f}, {DS_PRECISION_FP16, 4e-3f}};
    publish_in_bf16("llama");
    ds_model *m = open_model(folder, "cpu", NULL);
    const ds_model_config *c = ds_model_get_config(m);
    plain f32 = open_plain(folder, "cpu", c);
    for (int i = 0; i < 2; i++)
        for (int64_t n = 2; n < MOST_TOKENS; n += 15) {
            float *got = logits_of(ds_model_get_state(m), c, n, cases[i].precision);
            float *want = logits_of(f32.state, c, n, cases[i].precision);
            for (int64_t k = 0; k < n * c->vocab_size; k++)
                assert_float_equal(got[k], want[k], cases[i].tolerance * (1 + fabsf(want[k])));
            free(want), free(got);
        }
    close_plain(&f32);
    ds_model_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_types_are_the_files_unless_told_otherwise),
        cmocka_unit_test(test_matrices_stay_in_the_file),
        cmocka_unit_test(test_unaligned_data),
        cmocka_unit_test(test_no_copies_are_kept),
        cmocka_unit_test(test_nothing_is_said),
        cmocka_unit_test(test_is_not_trained),
        cmocka_unit_test(test_low_precision),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
