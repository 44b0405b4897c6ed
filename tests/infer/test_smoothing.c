/* Calibration and what is chosen from it: which products have a norm before them, the ranges that a
 * text shows, SmoothQuant's factors and columns that are kept apart. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "deepseek/safetensors.h"
#include "graph/ops/ops.h"
#include "infer/calibrate.h"
#include "infer/smoothing.h"
#include "passes/passes.h"
#include "support/graph_run.h"

#define GOLDENS DS_TEST_DATA "/goldens/"

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

static void products_tell_the_ranges_of_their_inputs(void **unused) {
    (void)unused;
    ds_backend *cpu = NULL;
    ds_state *state = NULL;
    ds_program *program = NULL;
    ds_graph *g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "x", DS_F32, 3, (int64_t[]){2, 2, 3});
    ds_node *w = ds_graph_param(g, "w", 2, (int64_t[]){5, 3}, DS_INIT_NORMAL(1));
    ds_graph_output(g, "y", ds_graph_matmul(g, x, w, (ds_matmul_opts){.transpose_b = true}));
    ds_graph *observed = ds_pass_observe(g);
    assert_int_equal(g->n_outputs, 1);
    assert_int_equal(observed->n_outputs, 2);
    require(ds_backend_open("cpu", (ds_backend_opts){1}, &cpu));
    require(ds_state_new(cpu, &state));
    require(ds_compile(observed, state, (ds_compile_opts){0}, &program));
    const float values[] = {1, -2, 3, 0, 1, -7, 0.5f, 0, 0, -4, 0, 2};
    float range[3];
    require(ds_program_write(program, "x", values, sizeof values));
    require(ds_program_run(program));
    require(ds_program_read(program, "range/w", range, sizeof range));
    assert_true(range[0] == 4 && range[1] == 2 && range[2] == 7);
    ds_program_free(program);
    ds_state_free(state);
    ds_backend_close(cpu);
    ds_graph_free(observed);
    ds_graph_free(g);
}

/* Weights whose column k is as large as k + 1, twice that for keys. */
static ds_status made_up(const ds_calibrated *p, float *most, void *context) {
    (void)context;
    for (int64_t k = 0; k < p->n_in; k++)
        most[k] = (float)(k + 1) * (strstr(p->param->name, "k_proj") ? 2 : 1);
    return DS_OK;
}

static void factors_are_shared_by_products_of_one_norm(void **unused) {
    (void)unused;
    ds_model *model = NULL;
    ds_calibration *c = NULL;
    ds_smoothed *smoothed = NULL;
    int32_t tokens[600];
    require(ds_model_from_pretrained(GOLDENS "llama", (ds_model_opts){0}, &model));
    const ds_model_config *config = ds_model_get_config(model);
    for (int i = 0; i < 600; i++)
        tokens[i] = (int32_t)(i * 7 % config->vocab_size);
    require(ds_calibration_new(config, &c));
    assert_int_equal(ds_calibration_read(c, model, tokens, 1), DS_INVALID);
    require(ds_calibration_read(c, model, tokens, 600));
    require(ds_smoothing_choose(c, &(ds_quantise_opts){.smooth = 0.5f}, made_up, NULL, &smoothed));
    int with_norm = 0, without = 0;
    for (size_t i = 0; i < c->n; i++) {
        const ds_calibrated *p = &c->products[i];
        const bool reads_norm =
            !strstr(p->param->name, "o_proj") && !strstr(p->param->name, "down_proj");
        if (strstr(p->param->name, "lm_head"))
            continue; /* its input goes through the last norm in some families, a gather in others
                       */
        assert_int_equal(p->norm != NULL, reads_norm);
        assert_int_equal(smoothed[i].factor != NULL, reads_norm); /* none apart unless asked for */
        with_norm += reads_norm;
        without += !reads_norm;
        for (int64_t k = 0; k < p->n_in; k++) {
            assert_true(p->most[k] > 0);
            if (!reads_norm)
                continue;
            /* the keys' weights are the largest of the three that share the input */
            const float w = (float)(k + 1) * (strstr(p->param->name, "self_attn") ? 2 : 1);
            const float wanted = sqrtf(p->most[k]) / sqrtf(w);
            assert_true(fabsf(smoothed[i].factor[k] - wanted) < 1e-4f * wanted);
        }
    }
    assert_true(with_norm > 0 && without > 0);
    ds_smoothing_free(smoothed, c->n);
    ds_calibration_free(c);
    ds_model_free(model);
}

static void large_columns_are_kept_apart(void **unused) {
    (void)unused;
    float most[8] = {1, 2, 90, 1, 2, 30, 1, 2};
    ds_calibrated product = {.n_in = 8, .n_out = 4, .most = most};
    const ds_calibration c = {.products = &product, .n = 1};
    ds_smoothed *smoothed = NULL;
    require(ds_smoothing_choose(&c, &(ds_quantise_opts){.outliers = 14}, made_up, NULL, &smoothed));
    assert_int_equal(smoothed[0].n_outliers, 2); /* the column in the middle is 2 */
    assert_int_equal(smoothed[0].outliers[0], 2);
    assert_int_equal(smoothed[0].outliers[1], 5);
    assert_null(smoothed[0].factor);
    ds_smoothing_free(smoothed, 1);
    require(ds_smoothing_choose(&c, &(ds_quantise_opts){.outliers = 16}, made_up, NULL, &smoothed));
    assert_int_equal(smoothed[0].n_outliers, 1);
    ds_smoothing_free(smoothed, 1);
}

/* ---- a model with large columns
 * ------------------------------------------------------------------ */

#define STORIES DS_ASSETS "/tinystories656k"
enum { MOST_TENSORS = 64, N_TOKENS = 24, MOST_LOGITS = 4096 };

/* Three columns of each norm times 256, and of the products that read them by 256: what the model
 * computes in floats stays the same, bit for bit. */
static void enlarge(const ds_safetensor *t, float *values) {
    static const int columns[] = {3, 40, 77};
    static const char *const readers[] = {"q_proj.weight", "k_proj.weight", "v_proj.weight",
                                          "gate_proj.weight", "up_proj.weight"};
    float factor = ds_ends_with(t->name, "layernorm.weight") ? 256 : 1;
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++)
        if (ds_ends_with(t->name, readers[i]))
            factor = 1.0f / 256;
    const int64_t width = t->dims[t->rank - 1], rows = t->rank == 2 ? t->dims[0] : 1;
    for (int64_t r = 0; r < rows && factor != 1; r++)
        for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
            values[r * width + columns[i]] *= factor;
}

static void link_beside(const char *folder, const char *name) {
    char from[PATH_MAX], to[PATH_MAX];
    snprintf(from, sizeof from, "%s/%s", STORIES, name);
    snprintf(to, sizeof to, "%s/%s", folder, name);
    assert_int_equal(symlink(from, to), 0);
}

static void write_enlarged(const char *folder) {
    ds_safetensors *from = NULL;
    ds_safetensors_writer *writer = NULL;
    ds_safetensors_entry entries[MOST_TENSORS];
    char path[PATH_MAX];
    require(ds_folder_make(folder));
    link_beside(folder, "config.json");
    link_beside(folder, "tokenizer.json");
    require(ds_safetensors_open(STORIES, &from));
    const size_t n = ds_safetensors_count(from);
    assert_true(n <= MOST_TENSORS);
    for (size_t i = 0; i < n; i++) {
        const ds_safetensor *t = ds_safetensors_at(from, i);
        entries[i] = (ds_safetensors_entry){.name = t->name, .dtype = DS_F32, .rank = t->rank};
        memcpy(entries[i].dims, t->dims, sizeof t->dims);
        assert_int_equal(t->dtype, DS_F32);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    require(ds_safetensors_writer_new(path, entries, n, NULL, &writer));
    for (size_t i = 0; i < n; i++) {
        const ds_safetensor *t = ds_safetensors_at(from, i);
        float *values = malloc(t->size_bytes);
        assert_non_null(values);
        memcpy(values, t->data, t->size_bytes);
        enlarge(t, values);
        require(ds_safetensors_writer_write(writer, i, 0, values, t->size_bytes));
        free(values);
    }
    require(ds_safetensors_writer_close(writer, NULL));
    ds_safetensors_close(from);
}

/* Logits after each of some tokens: [N_TOKENS, vocab]; the vocabulary's size is returned. */
static int64_t logits_of(const char *folder, float *out) {
    ds_model *model = NULL;
    ds_generator *generator = NULL;
    require(ds_model_from_pretrained(folder, (ds_model_opts){.n_threads = 1}, &model));
    const ds_model_config *config = ds_model_get_config(model);
    const int64_t vocab = config->vocab_size;
    assert_true(vocab <= MOST_LOGITS);
    require(ds_generator_new(ds_model_get_state(model), config, N_TOKENS, DS_PRECISION_FULL,
                             &generator));
    for (int i = 0; i < N_TOKENS; i++) {
        const int32_t token = i == 0 ? 1 : (int32_t)(i * 97 % vocab);
        require(ds_generator_feed(generator, &token, 1));
        memcpy(out + i * vocab, ds_generator_logits(generator), (size_t)vocab * sizeof *out);
    }
    ds_generator_free(generator);
    ds_model_free(model);
    return vocab;
}

/* How far the folder's logits are from the exact ones, as a part of them. */
static double error_of(const char *folder, const float *exact) {
    static float logits[N_TOKENS * MOST_LOGITS];
    const int64_t n = N_TOKENS * logits_of(folder, logits);
    double wrong = 0, all = 0;
    for (int64_t i = 0; i < n; i++) {
        wrong += pow((double)logits[i] - (double)exact[i], 2);
        all += pow((double)exact[i], 2);
    }
    return sqrt(wrong / all);
}

static double error_quantised(const char *dir, const char *name, ds_quantise_opts opts,
                              const float *exact) {
    char from[PATH_MAX], to[PATH_MAX], text[PATH_MAX];
    snprintf(from, sizeof from, "%s/model", dir);
    snprintf(to, sizeof to, "%s/%s", dir, name);
    snprintf(text, sizeof text, "%s/text", dir);
    opts.calibration = text;
    ds_quantise_report report;
    require(ds_model_quantise(from, to, opts, &report));
    const double error = error_of(to, exact);
    print_message("%s: logits differ by %.3g\n", name, error);
    return error;
}

/* A few large columns leave the others few of the 8 bits; smoothing and keeping them apart both
 * give most of that back. */
static void large_columns_cost_little_where_they_are_seen(void **unused) {
    (void)unused;
    static const char story[] =
        "Once upon a time, there was a little girl named Lily. She had a dog. ";
    static float exact[N_TOKENS * MOST_LOGITS];
    char dir[] = "/tmp/ds-smoothing-XXXXXX", path[PATH_MAX];
    if (!ds_folder_exists(STORIES))
        skip();
    assert_non_null(mkdtemp(dir));
    ds_text text = {0};
    for (int i = 0; i < 40; i++)
        ds_text_puts(&text, story);
    snprintf(path, sizeof path, "%s/text", dir);
    require(ds_file_replace(path, text.data, text.length));
    ds_text_clear(&text);
    logits_of(STORIES, exact);
    snprintf(path, sizeof path, "%s/model", dir);
    write_enlarged(path);
    assert_true(error_of(path, exact) < 1e-5); /* the same model */
    const double plain = error_quantised(dir, "plain", (ds_quantise_opts){0}, exact);
    const double smooth = error_quantised(dir, "smooth", (ds_quantise_opts){.smooth = 0.5f}, exact);
    const double apart = error_quantised(dir, "apart", (ds_quantise_opts){.outliers = 20}, exact);
    assert_true(smooth < plain / 10 && apart < plain / 10);
    require(ds_folder_remove(dir));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_tell_the_ranges_of_their_inputs),
        cmocka_unit_test(factors_are_shared_by_products_of_one_norm),
        cmocka_unit_test(large_columns_are_kept_apart),
        cmocka_unit_test(large_columns_cost_little_where_they_are_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
