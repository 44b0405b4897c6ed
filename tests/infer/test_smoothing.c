/* Calibration and what is chosen from it: which products have a norm before them, the ranges that a
 * text shows, SmoothQuant's factors and columns that are kept apart. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_tell_the_ranges_of_their_inputs),
        cmocka_unit_test(factors_are_shared_by_products_of_one_norm),
        cmocka_unit_test(large_columns_are_kept_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
