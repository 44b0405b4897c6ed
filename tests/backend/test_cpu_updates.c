/* Updates of many parameters by one op: as the reference, and bit for bit as one by one. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "graph/ops/ops.h"
#include "support/kernel_case.h"

static const ds_op *const ops[] = {&ds_op_adamw, &ds_op_sgd, &ds_op_lion};
enum { N_OPS = 3, N_TENSORS = 6, MOST_PARTS = 4, MOST_INPUTS = N_TENSORS * MOST_PARTS + 3 };
static const int64_t counts[N_TENSORS] = {1, 1023, 0, 70001, 1024, 5000};
static const ds_update_attrs attrs = {0.9f, 0.95f, 1e-8f, 0.1f};
static const float scalars[] = {1e-3f, 0.5f, 7}; /* lr, grad_scale, step */

/* The update of tensors [first, first + n); the second states are bf16. */
static ds_node *update_of(ds_graph *g, const ds_op *op, int first, int n) {
    ds_node *inputs[MOST_INPUTS];
    const int n_changed = op->n_changed;
    for (int k = 0; k <= n_changed; k++)
        for (int t = 0; t < n; t++) {
            char name[32];
            snprintf(name, sizeof name, "%d of %d", k, first + t);
            const ds_dtype dtype = k == 1 && t % 2 ? DS_BF16 : DS_F32;
            inputs[k * n + t] = k < n_changed ? ds_graph_variable(g, name, dtype, 1,
                                                                  &counts[first + t], DS_INIT_ZEROS)
                                              : case_input(g, DS_F32, 1, &counts[first + t]);
        }
    const int n_inputs = n * (n_changed + 1) + op->n_scalars;
    for (int i = n * (n_changed + 1); i < n_inputs; i++)
        inputs[i] = case_input(g, DS_F32, 0, NULL);
    return ds_graph_add_node(g, op, &attrs, inputs, n_inputs);
}

static void plausible_scalars(const ds_node *node, ds_tensor *inputs, void *context) {
    (void)context;
    for (int k = 0; k < node->op->n_scalars; k++)
        *(float *)inputs[node->n_inputs - node->op->n_scalars + k].data = scalars[k];
}

static void updates_of_many_match_reference(void **unused) {
    (void)unused;
    for (int o = 0; o < N_OPS; o++)
        for (int n = 1; n <= N_TENSORS; n++) {
            ds_graph *g = ds_graph_new();
            unsigned second_moments = 0; /* are positive */
            for (int t = 0; o == 0 && t < n; t++)
                second_moments |= 1u << (2 * n + t);
            check_kernel(update_of(g, ops[o], 0, n), (kernel_case){.seed = (uint64_t)n,
                                                                   .positive = second_moments,
                                                                   .low = -0.5f,
                                                                   .high = 0.5f,
                                                                   .tolerance = 3e-6,
                                                                   .adjust = plausible_scalars});
            ds_graph_free(g);
        }
}

/* ---- bit for bit ----------------------------------------------------------------------------- */

/* Part k of tensor t: the same numbers at each call; the caller's to free(). */
static void *numbers(int k, int t) {
    float *x = malloc((size_t)counts[t] * sizeof *x + 1);
    assert_non_null(x);
    for (int64_t i = 0; i < counts[t]; i++)
        x[i] = ds_uniform(ds_philox((uint64_t)k, (uint64_t)i, (uint64_t)t).word[0]);
    return x;
}

/* Runs the update over data[k][t]. */
static void run_update(const ds_op *op, int first, int n, void *data[MOST_PARTS][N_TENSORS],
                       int n_threads) {
    ds_backend *cpu = NULL;
    ds_tensor inputs[MOST_INPUTS];
    float values[3];
    memcpy(values, scalars, sizeof values);
    assert_int_equal(ds_backend_open("cpu", (ds_backend_opts){0}, &cpu), DS_OK);
    ds_graph *g = ds_graph_new();
    const ds_node *node = update_of(g, op, first, n);
    assert_non_null(node);
    const int n_parts = op->n_changed + 1;
    for (int k = 0; k < n_parts; k++)
        for (int t = 0; t < n; t++)
            inputs[k * n + t] = ds_tensor_of(data[k][first + t], DS_F32, 1, &counts[first + t]);
    for (int k = 0; k < op->n_scalars; k++)
        inputs[n * n_parts + k] = ds_tensor_of(&values[k], DS_F32, 0, NULL);
    const ds_kernel_args args = {.node = node,
                                 .n_inputs = node->n_inputs,
                                 .n_outputs = 1,
                                 .inputs = inputs,
                                 .outputs = inputs,
                                 .n_threads = n_threads};
    const ds_kernel *kernel = cpu->ops->find_kernel(cpu, node);
    assert_ptr_not_equal(kernel, &ds_kernel_reference);
    assert_int_equal(kernel->run(&args, NULL), DS_OK);
    ds_graph_free(g);
    ds_backend_close(cpu);
}

static void updates_of_many_are_those_of_each(void **unused) {
    (void)unused;
    for (int o = 0; o < N_OPS; o++)
        for (int n_threads = 1; n_threads <= 3; n_threads++) {
            void *together[MOST_PARTS][N_TENSORS], *apart[MOST_PARTS][N_TENSORS];
            for (int k = 0; k < MOST_PARTS; k++)
                for (int t = 0; t < N_TENSORS; t++) {
                    together[k][t] = numbers(k, t);
                    apart[k][t] = numbers(k, t);
                }
            run_update(ops[o], 0, N_TENSORS, together, n_threads);
            for (int t = 0; t < N_TENSORS; t++)
                run_update(ops[o], t, 1, apart, 1);
            float *before = numbers(0, 1);
            assert_memory_not_equal(together[0][1], before, (size_t)counts[1] * sizeof *before);
            free(before);
            for (int k = 0; k < MOST_PARTS; k++)
                for (int t = 0; t < N_TENSORS; t++) {
                    assert_memory_equal(together[k][t], apart[k][t],
                                        (size_t)counts[t] * sizeof(float));
                    free(together[k][t]);
                    free(apart[k][t]);
                }
        }
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void tensors_that_do_not_belong_together_are_refused(void **unused) {
    (void)unused;
    const int64_t three = 3, four = 4;
    ds_graph *g = ds_graph_new();
    ds_node *p = ds_graph_variable(g, "p", DS_F32, 1, &three, DS_INIT_ZEROS);
    ds_node *q = ds_graph_variable(g, "q", DS_F32, 1, &four, DS_INIT_ZEROS);
    ds_node *m = ds_graph_variable(g, "m", DS_F32, 1, &three, DS_INIT_ZEROS);
    ds_node *grad = case_input(g, DS_F32, 1, &three), *lr = case_input(g, DS_F32, 0, NULL);
    /* the second tensor's state has the first one's shape */
    ds_node *inputs[] = {p, q, m, m, grad, grad, lr, lr};
    assert_null(ds_graph_add_node(g, &ds_op_sgd, &attrs, inputs, 8));
    assert_non_null(strstr(ds_error(), "input 3"));
    ds_graph_free(g);
    g = ds_graph_new();
    p = ds_graph_variable(g, "p", DS_F32, 1, &three, DS_INIT_ZEROS);
    ds_node *few[] = {p, p, p, p};
    assert_null(ds_graph_add_node(g, &ds_op_sgd, &attrs, few, 4));
    assert_non_null(strstr(ds_error(), "4 inputs"));
    ds_graph_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(updates_of_many_match_reference),
        cmocka_unit_test(updates_of_many_are_those_of_each),
        cmocka_unit_test(tensors_that_do_not_belong_together_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
