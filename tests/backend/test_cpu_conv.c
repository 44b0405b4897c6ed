/* Convolutions and their gradients against the reference. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#include "graph/ops/ops.h"
#include "support/kernel_case.h"

static const ds_dtype floats[] = {DS_F32, DS_BF16, DS_F16};

typedef struct conv_case {
    int64_t x[4], weight[4];
    ds_conv_opts opts;
} conv_case;

static const conv_case convolutions[] = {
    {{2, 3, 9, 11}, {5, 3, 3, 3}, {{1, 1}, {1, 1}}},
    {{1, 1, 1, 1}, {1, 1, 1, 1}, {{2, 3}, {0, 0}}},
    {{2, 4, 17, 13}, {7, 4, 5, 2}, {{2, 3}, {2, 0}}},
    {{3, 2, 8, 8}, {4, 2, 3, 3}, {{2, 2}, {4, 5}}}, /* places that see padding alone */
    {{1, 40, 20, 21}, {70, 40, 3, 3}, {{1, 1}, {1, 1}}},
    {{2, 3, 10, 7}, {6, 3, 4, 7}, {{3, 1}, {0, 0}}},
    {{0, 3, 9, 9}, {5, 3, 3, 3}, {{1, 1}, {1, 1}}},
    {{2, 0, 9, 9}, {5, 0, 3, 3}, {{1, 1}, {1, 1}}},
    {{2, 3, 9, 9}, {0, 3, 3, 3}, {{1, 1}, {1, 1}}},
};
enum { N_CONVOLUTIONS = sizeof convolutions / sizeof *convolutions };

static void convolutions_match_reference(void **unused) {
    (void)unused;
    for (int s = 0; s < N_CONVOLUTIONS; s++)
        for (int d = 0; d < 3; d++) {
            const conv_case *c = &convolutions[s];
            const kernel_case k = {
                .seed = (uint64_t)s, .low = -0.5f, .high = 0.5f, .tolerance = 5e-5};
            ds_graph *g = ds_graph_new();
            ds_node *x = case_input(g, floats[d], 4, c->x);
            ds_node *weight = case_input(g, floats[d], 4, c->weight);
            ds_node *bias = case_input(g, DS_F32, CASE_DIMS(c->weight[0]));
            ds_node *y =
                ds_graph_add_node(g, &ds_op_conv2d, &c->opts, (ds_node *[]){x, weight, bias}, 3);
            check_kernel(y, k);
            check_kernel(ds_graph_add_node(g, &ds_op_conv2d, &c->opts, (ds_node *[]){x, weight}, 2),
                         k);
            ds_node *dy = case_input(g, floats[d], y->type.rank, y->type.dims);
            ds_conv_grad_attrs a = {.conv = c->opts};
            memcpy(a.dims, c->x, sizeof a.dims);
            check_kernel(
                ds_graph_add_node(g, &ds_op_conv2d_input_grad, &a, (ds_node *[]){dy, weight}, 2),
                k);
            memcpy(a.dims, c->weight, sizeof a.dims);
            check_kernel(
                ds_graph_add_node(g, &ds_op_conv2d_weight_grad, &a, (ds_node *[]){dy, x}, 2), k);
            ds_graph_free(g);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(convolutions_match_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
