/* Products of sizes known at run time: grouped products against the reference, and the blocks below
 * them on tiles of bf16, which this processor may have no instructions for. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/products.h"
#include "base/half.h"
#include "base/rng.h"
#include "graph/ops/ops.h"
#include "support/kernel_case.h"

static const ds_dtype floats[] = {DS_F32, DS_BF16, DS_F16};

/* ---- grouped products ------------------------------------------------------------------------ */

typedef enum split { EVEN, ONE_HAS_ALL, SOME_LEFT_OVER, BACKWARDS } split;

/* Offsets that share out the rows; those of BACKWARDS are no offsets, and must do no harm. */
static void share_out(const ds_node *node, ds_tensor *inputs, void *context) {
    const int64_t rows = node->inputs[0]->type.dims[0], n = inputs[2].dims[0];
    int32_t *offsets = inputs[2].data;
    for (int64_t e = 0; e < n; e++) {
        const int64_t even = rows * e * e / ((n - 1) * (n - 1));
        switch (*(const split *)context) {
        case EVEN: offsets[e] = (int32_t)even; break;
        case ONE_HAS_ALL: offsets[e] = (int32_t)(e > n / 2 ? rows : 0); break;
        case SOME_LEFT_OVER: offsets[e] = (int32_t)(even * 3 / 4); break;
        case BACKWARDS: offsets[e] = (int32_t)(3 * rows - 2 * even); break;
        }
    }
}

static const int64_t shapes[][4] = {/* rows, k, n, experts */
                                    {1, 1, 1, 1},     {0, 5, 3, 2},      {7, 0, 3, 2},
                                    {7, 3, 0, 2},     {40, 33, 65, 3},   {300, 257, 31, 8},
                                    {64, 96, 320, 5}, {1100, 33, 50, 4}, {19, 600, 40, 17}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static kernel_case case_of(int s, split *how) {
    return (kernel_case){.seed = (uint64_t)s,
                         .low = -0.5f,
                         .high = 0.5f,
                         .tolerance = 5e-5,
                         .int_high = 1,
                         .adjust = share_out,
                         .context = how};
}

static void grouped_products_match_reference(void **unused) {
    (void)unused;
    for (int s = 0; s < N_SHAPES; s++)
        for (int d = 0; d < 3; d++)
            for (split how = EVEN; how <= SOME_LEFT_OVER; how++) {
                const int64_t rows = shapes[s][0], k = shapes[s][1], n = shapes[s][2],
                              experts = shapes[s][3];
                ds_graph *g = ds_graph_new();
                ds_node *x = case_input(g, floats[d], CASE_DIMS(rows, k));
                ds_node *w = case_input(g, floats[d], CASE_DIMS(experts, k, n));
                ds_node *turned = case_input(g, floats[d], CASE_DIMS(experts, n, k));
                ds_node *offsets = case_input(g, DS_I32, CASE_DIMS(experts + 1));
                const kernel_case c = case_of(s, &how);
                check_kernel(ds_graph_grouped_matmul(g, x, w, offsets, (ds_matmul_opts){0}), c);
                check_kernel(ds_graph_grouped_matmul(g, x, turned, offsets,
                                                     (ds_matmul_opts){.transpose_b = true}),
                             c);
                ds_graph_free(g);
            }
}

static void grouped_weight_gradients_match_reference(void **unused) {
    (void)unused;
    for (int s = 0; s < N_SHAPES; s++)
        for (int d = 0; d < 3; d++)
            for (split how = EVEN; how <= SOME_LEFT_OVER; how++) {
                const int64_t rows = shapes[s][0], experts = shapes[s][3];
                ds_graph *g = ds_graph_new();
                ds_node *inputs[] = {case_input(g, floats[d], CASE_DIMS(rows, shapes[s][1])),
                                     case_input(g, floats[d], CASE_DIMS(rows, shapes[s][2])),
                                     case_input(g, DS_I32, CASE_DIMS(experts + 1))};
                check_kernel(ds_graph_add_node(g, &ds_op_grouped_matmul_weight, NULL, inputs, 3),
                             case_of(s, &how));
                ds_graph_free(g);
            }
}

/* No reference to compare with: the sanitizers look on. */
static void wrong_offsets_do_no_harm(void **unused) {
    (void)unused;
    split how = BACKWARDS;
    ds_graph *g = ds_graph_new();
    ds_node *x = case_input(g, DS_F32, CASE_DIMS(50, 40));
    ds_node *w = case_input(g, DS_F32, CASE_DIMS(4, 40, 24));
    ds_node *offsets = case_input(g, DS_I32, CASE_DIMS(5));
    kernel_case c = case_of(0, &how);
    c.results = 1u << 1; /* there is none such */
    check_kernel(ds_graph_grouped_matmul(g, x, w, offsets, (ds_matmul_opts){0}), c);
    ds_graph_free(g);
}

/* ---- tiles of bf16 --------------------------------------------------------------------------- */

/* The interface of the matrix units in plain C; as theirs, columns are read in pairs. */
static void plain_pack_rows(const void *rows, int64_t stride, int64_t k, int64_t n, void *packed) {
    for (int64_t i = 0; i < k; i++)
        memcpy((uint16_t *)packed + i * n, (const uint16_t *)rows + i * stride,
               (size_t)n * sizeof(uint16_t));
}

static void plain_pack_columns(const void *columns, int64_t stride, int64_t k, int64_t n,
                               void *packed) {
    const int64_t pairs = stride / 2;
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < n; j++)
            ((uint16_t *)packed)[i * n + j] = ((const uint16_t *)columns)[j * pairs * 2 + i];
}

static void plain_multiply(const void *a, int64_t a_stride, const void *b, float *c,
                           int64_t c_stride, int64_t m, int64_t n, int64_t k, bool accumulate) {
    assert_int_equal(m % 16, 0);
    assert_int_equal(n % DS_TILE, 0);
    assert_int_equal(k % DS_TILE, 0);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            float sum = accumulate ? c[i * c_stride + j] : 0;
            for (int64_t l = 0; l < k; l++)
                sum += ds_bf16_to_f32(((const uint16_t *)a)[i * a_stride + l]) *
                       ds_bf16_to_f32(((const uint16_t *)b)[l * n + j]);
            c[i * c_stride + j] = sum;
        }
}

static const ds_tiles plain_tiles = {.dtype = DS_BF16,
                                     .pack_rows = plain_pack_rows,
                                     .pack_columns = plain_pack_columns,
                                     .multiply = plain_multiply};

static void *draw(ds_dtype dtype, int64_t n, uint64_t seed) {
    char *x = malloc((size_t)n * 4 + 1);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        const float value = ds_uniform(ds_philox(ds_mix64(seed), (uint64_t)i, 0).word[0]) - 0.5f;
        if (dtype == DS_F32)
            memcpy(x + i * 4, &value, sizeof value);
        else
            ((uint16_t *)(void *)x)[i] = ds_f32_to_bf16(value);
    }
    return x;
}

static float value_at(const ds_matrix *x, int64_t row, int64_t column) {
    const int64_t at = row * x->row_stride + column * x->column_stride;
    return x->dtype == DS_F32 ? ((const float *)x->data)[at]
                              : ds_bf16_to_f32(((const uint16_t *)x->data)[at]);
}

static void check_product(const ds_matrix_product *p) {
    const ds_tiles *tiles = &plain_tiles;
    float *c = p->c;
    void *workspace = malloc(ds_products_workspace(tiles, 2));
    assert_non_null(workspace);
    for (int64_t i = 0; i < p->m * p->c_stride; i++)
        c[i] = 1;
    ds_products_run(tiles, p, 1, 2, workspace);
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->c_stride; j++) {
            double expected = j >= p->n || p->accumulates ? 1 : 0;
            for (int64_t l = 0; j < p->n && l < p->k; l++)
                expected += (double)ds_bf16_to_f32(ds_f32_to_bf16(value_at(&p->a, i, l))) *
                            (double)ds_bf16_to_f32(ds_f32_to_bf16(value_at(&p->b, l, j)));
            if (p->bias && j < p->n)
                expected += (double)p->bias[i];
            if (!(fabs(expected - (double)c[i * p->c_stride + j]) <= 1e-4))
                fail_msg("element %lld, %lld: expected %g, got %g", (long long)i, (long long)j,
                         expected, (double)c[i * p->c_stride + j]);
        }
    free(workspace);
}

static void tiles_of_bf16_take_any_operands(void **unused) {
    (void)unused;
    static const int64_t sizes[][3] = {/* m, n, k */
                                       {1, 1, 1},
                                       {20, 37, 5},
                                       {150, 290, 40},
                                       {520, 40, 33},
                                       {17, 33, 600}};
    for (int s = 0; s < 5; s++)
        for (int form = 0; form < 32; form++) {
            const int64_t m = sizes[s][0], n = sizes[s][1], k = sizes[s][2];
            const ds_dtype a_dtype = form & 1 ? DS_F32 : DS_BF16;
            const ds_dtype b_dtype = form & 2 ? DS_F32 : DS_BF16;
            void *a = draw(a_dtype, m * k, 1), *b = draw(b_dtype, n * k, 2);
            float *bias = draw(DS_F32, m, 3), *c = draw(DS_F32, m * (n + 2), 4);
            const ds_matrix_product p = {
                .m = m,
                .n = n,
                .k = k,
                .a = form & 4 ? (ds_matrix){a, a_dtype, 1, m} : (ds_matrix){a, a_dtype, k, 1},
                .b = form & 8 ? (ds_matrix){b, b_dtype, 1, k} : (ds_matrix){b, b_dtype, n, 1},
                .c = c,
                .c_dtype = DS_F32,
                .c_stride = n + 2,
                .bias = form & 16 ? bias : NULL,
                .accumulates = form & 16};
            check_product(&p);
            free(a);
            free(b);
            free(c);
            free(bias);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grouped_products_match_reference),
        cmocka_unit_test(grouped_weight_gradients_match_reference),
        cmocka_unit_test(wrong_offsets_do_no_harm),
        cmocka_unit_test(tiles_of_bf16_take_any_operands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
