/* Products over quantised parameters: the graph before against the graph after, and that the
 * program gives what the dequantised weights give. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "deepseek/nn.h"
#include "graph/ops/ops.h"
#include "passes/passes.h"
#include "program/state.h"
#include "support/graph_run.h"

enum { ROWS = 3, N_IN = 16, N_OUT = 8 };

/* A layer with a bias, an activation and a residual, its weight stored either way. */
static ds_graph *layer(bool by_columns) {
    ds_graph *g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "x", DS_F32, 3, (int64_t[]){1, ROWS, N_IN});
    ds_node *other = ds_graph_input(g, "other", DS_F32, 3, (int64_t[]){1, ROWS, N_OUT});
    ds_node *y = by_columns ? ds_nn_conv1d(g, "layer", x, N_OUT, DS_INIT_NORMAL(1))
                            : ds_nn_linear(g, "layer", x, N_OUT, true, DS_INIT_NORMAL(1));
    ds_graph_output(g, "y", ds_graph_add(g, ds_graph_unary(g, DS_RELU, y, 0), other));
    assert_true(ds_graph_ok(g));
    return g;
}

static bool find_layer(const char *param, int64_t n_in, const void *context,
                       ds_quantised_weight *out) {
    assert_int_equal(n_in, N_IN);
    *out = *(const ds_quantised_weight *)context;
    return strcmp(param, "layer.weight") == 0;
}

static const ds_node *find_op(const ds_graph *g, const ds_op *op) {
    for (size_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i]->op == op)
            return g->nodes[i];
    return NULL;
}

static void products_of_marked_parameters_are_replaced(void **unused) {
    (void)unused;
    for (int by_columns = 0; by_columns < 2; by_columns++) {
        ds_graph *g = layer(by_columns);
        assert_int_equal(count_ops(g, &ds_op_matmul), 1);
        assert_int_equal(count_ops(g, &ds_op_quantised_matmul), 0);
        const ds_quantised_weight w = {
            .dtype = DS_I8, .scale_dtype = DS_BF16, .group = N_IN, .int8_input = true};
        ds_graph *after = ds_pass_quantise(g, find_layer, &w);
        assert_true(ds_graph_ok(after));
        assert_int_equal(count_ops(after, &ds_op_matmul), 0);
        const ds_node *product = find_op(after, &ds_op_quantised_matmul);
        assert_non_null(product);
        assert_string_equal(product->inputs[1]->name, "layer.weight_codes");
        assert_int_equal(product->inputs[1]->type.dtype, DS_I8);
        assert_int_equal(ds_node_dim(product->inputs[1], 0), N_OUT);
        assert_string_equal(product->inputs[2]->name, "layer.weight_scale");
        ds_graph *fused = ds_pass_fuse(after); /* bias, activation and residual join it */
        assert_true(ds_graph_ok(fused));
        assert_int_equal(fused->outputs[0].node->n_inputs, 5);
        assert_ptr_equal(fused->outputs[0].node->op, &ds_op_quantised_matmul);
        ds_graph_free(fused);
        ds_graph_free(after);
        ds_graph_free(g);
    }
}

static void parameters_that_are_not_marked_stay(void **unused) {
    (void)unused;
    ds_graph *g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "x", DS_F32, 2, (int64_t[]){ROWS, N_IN});
    ds_graph_output(g, "y", ds_nn_linear(g, "other", x, N_OUT, false, DS_INIT_NORMAL(1)));
    ds_graph *after = ds_pass_quantise(g, find_layer, &(ds_quantised_weight){0});
    assert_int_equal(count_ops(after, &ds_op_matmul), 1);
    assert_int_equal(count_ops(after, &ds_op_quantised_matmul), 0);
    ds_graph_free(after);
    ds_graph_free(g);
}

/* ---- what a program computes ----------------------------------------------------------------- */

static void declare(ds_state *state, const char *name, ds_dtype dtype, int64_t rows,
                    int64_t columns) {
    const int64_t dims[] = {rows, columns};
    const ds_type type = ds_type_of(dtype, columns ? 2 : 1, dims);
    assert_int_equal(ds_state_declare_tensor(state, name, &type), DS_OK);
}

/* Column 5 is far larger than the rest; columns count twice or half. */
static void columns_can_be_kept_and_scaled(void **unused) {
    (void)unused;
    ds_backend *cpu = NULL;
    ds_state *state = NULL;
    ds_program *program = NULL;
    assert_int_equal(ds_backend_open("cpu", (ds_backend_opts){1}, &cpu), DS_OK);
    assert_int_equal(ds_state_new(cpu, &state), DS_OK);
    declare(state, "layer.weight_codes", DS_I8, N_OUT, N_IN);
    declare(state, "layer.weight_scale", DS_F32, N_OUT, 1);
    declare(state, "layer.weight_input_factor", DS_F32, N_IN, 0);
    declare(state, "layer.weight_outlier_columns", DS_I32, 1, 0);
    declare(state, "layer.weight_outliers", DS_BF16, N_OUT, 1);
    int8_t codes[N_OUT][N_IN];
    float scale[N_OUT], factor[N_IN], x[ROWS][N_IN], other[ROWS][N_OUT], y[ROWS][N_OUT];
    uint16_t kept[N_OUT];
    const int32_t column = 5;
    for (int j = 0; j < N_OUT; j++) {
        for (int i = 0; i < N_IN; i++)
            codes[j][i] = (int8_t)(i == column ? 0 : (j * 37 + i * 11) % 255 - 127);
        scale[j] = 0.01f * (float)(j + 1);
        kept[j] = ds_f32_to_bf16((float)j - 2);
    }
    for (int i = 0; i < N_IN; i++)
        factor[i] = i == column ? 0 : i % 2 ? 2 : 0.5f;
    for (int r = 0; r < ROWS; r++) {
        for (int i = 0; i < N_IN; i++)
            x[r][i] = i == column ? 300 : sinf((float)(r * N_IN + i));
        memset(other[r], 0, sizeof other[r]);
    }
    ds_state_write(state, "layer.weight_codes", codes, sizeof codes);
    ds_state_write(state, "layer.weight_scale", scale, sizeof scale);
    ds_state_write(state, "layer.weight_input_factor", factor, sizeof factor);
    ds_state_write(state, "layer.weight_outlier_columns", &column, sizeof column);
    ds_state_write(state, "layer.weight_outliers", kept, sizeof kept);
    ds_graph *g = layer(false);
    for (int int8_inputs = 0; int8_inputs < 2; int8_inputs++) {
        ds_state_quantise_inputs(state, int8_inputs);
        assert_int_equal(ds_compile(g, state, (ds_compile_opts){0}, &program), DS_OK);
        ds_program_write(program, "x", x, sizeof x);
        ds_program_write(program, "other", other, sizeof other);
        assert_int_equal(ds_program_run(program), DS_OK);
        assert_int_equal(ds_program_read(program, "y", y, sizeof y), DS_OK);
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < N_OUT; j++) {
                double sum = 300 * (j - 2);
                for (int i = 0; i < N_IN; i++)
                    sum += (double)(x[r][i] * factor[i] * (float)codes[j][i] * scale[j]);
                /* an input of 8 bits is off by half a 127th of 2 at most, a column */
                const double off = int8_inputs ? N_IN * 127 * (double)scale[j] / 127 : 1e-3;
                assert_true(fabs((sum > 0 ? sum : 0) - (double)y[r][j]) <= off + 1e-3);
            }
        ds_program_free(program);
    }
    ds_graph_free(g);
    ds_state_free(state);
    ds_backend_close(cpu);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_of_marked_parameters_are_replaced),
        cmocka_unit_test(parameters_that_are_not_marked_stay),
        cmocka_unit_test(columns_can_be_kept_and_scaled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
