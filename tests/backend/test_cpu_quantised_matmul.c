/* Products with quantised weights against the reference, on odd shapes, few rows and many. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/simd/simd.h"
#include "base/rng.h"
#include "graph/ops/ops.h"
#include "support/kernel_case.h"

static const ds_dtype floats[] = {DS_F32, DS_BF16, DS_F16};

typedef struct product {
    int64_t m, n, k, group; /* group 0: one scale a row */
    bool is_i4, int8_input;
} product;

static uint32_t random_at(uint64_t seed, uint64_t i) {
    return ds_philox(seed, i, 77).word[0];
}

/* Codes of every value there is, −128 among the bytes, words in all their bits. */
static void draw_codes(const ds_node *node, ds_tensor *inputs, void *context) {
    const ds_tensor *codes = &inputs[1];
    (void)node;
    (void)context;
    for (int64_t i = 0; i < ds_count(codes->dims, codes->rank); i++) {
        const uint32_t bits = random_at(5, (uint64_t)i);
        if (codes->dtype == DS_I8)
            ((int8_t *)codes->data)[i] = (int8_t)(bits % 7 == 0 ? -128 : (int)(bits % 256) - 128);
        else
            ((int32_t *)codes->data)[i] = (int32_t)bits;
    }
}

static ds_node *build(ds_graph *g, product p, ds_dtype x_dtype, ds_dtype scale_dtype) {
    const int64_t group = p.group ? p.group : p.k, words = p.is_i4 ? (p.k + 7) / 8 : p.k;
    ds_node *x = case_input(g, x_dtype, CASE_DIMS(p.m, p.k));
    ds_node *codes = case_input(g, p.is_i4 ? DS_I32 : DS_I8, CASE_DIMS(p.n, words));
    ds_node *scale = case_input(g, scale_dtype, CASE_DIMS(p.n, (p.k + group - 1) / group));
    return ds_graph_quantised_matmul(
        g, x, codes, scale,
        (ds_quantised_matmul_opts){.group = p.group, .int8_input = p.int8_input});
}

/* The sums grow with the number of summands, and so does what rounding may do. */
static void check(product p, int form) {
    ds_graph *g = ds_graph_new();
    ds_node *y = build(g, p, floats[form % 3], floats[(form + form / 3) % 3]);
    assert_true(ds_graph_ok(g));
    check_kernel(y, (kernel_case){.seed = (uint64_t)(form + 1),
                                  .low = -0.25f,
                                  .high = 0.25f,
                                  .tolerance = 2e-4,
                                  .low_tolerance = 4e-2,
                                  .adjust = draw_codes});
    ds_graph_free(g);
}

static const int64_t shapes[][3] = {/* m, n, k */
                                    {1, 1, 1},    {1, 17, 64},  {2, 5, 63},    {3, 33, 129},
                                    {4, 7, 576},  {5, 64, 200}, {6, 3, 31},    {7, 19, 257},
                                    {8, 16, 128}, {9, 40, 72},  {16, 21, 100}, {17, 65, 130},
                                    {40, 600, 90}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void bytes_match_reference(void **unused) {
    (void)unused;
    for (int s = 0; s < N_SHAPES; s++)
        for (int form = 0; form < 6; form++)
            check((product){.m = shapes[s][0],
                            .n = shapes[s][1],
                            .k = shapes[s][2],
                            .int8_input = form >= 3},
                  form);
}

static void four_bits_match_reference(void **unused) {
    (void)unused;
    static const int64_t groups[] = {0, 8, 16, 32, 64, 128};
    for (int s = 0; s < N_SHAPES; s++)
        for (int form = 0; form < 6; form++)
            check((product){.m = shapes[s][0],
                            .n = shapes[s][1],
                            .k = shapes[s][2],
                            .group = groups[form],
                            .is_i4 = true},
                  form + s);
}

static void empty_products_are_empty(void **unused) {
    (void)unused;
    for (int form = 0; form < 3; form++) {
        check((product){.m = 0, .n = 5, .k = 16, .is_i4 = form == 2, .int8_input = form == 1}, 0);
        check((product){.m = 3, .n = 0, .k = 16, .is_i4 = form == 2, .int8_input = form == 1}, 0);
    }
}

/* Bias, activation and residual as the fuse pass puts them on. */
static void epilogues_match_reference(void **unused) {
    (void)unused;
    for (int form = 0; form < 12; form++) {
        ds_graph *g = ds_graph_new();
        const product p = {.m = form & 1 ? 33 : 3,
                           .n = 37,
                           .k = 96,
                           .int8_input = form % 3 == 1,
                           .is_i4 = form % 3 == 2};
        ds_node *y = build(g, p, floats[form % 2], DS_F32);
        ds_quantised_matmul_attrs attrs = *(const ds_quantised_matmul_attrs *)y->attrs;
        attrs.epilogue.has_bias = attrs.epilogue.has_residual = attrs.epilogue.has_activation =
            true;
        attrs.epilogue.activation = DS_SILU;
        ds_node *inputs[5] = {y->inputs[0], y->inputs[1], y->inputs[2]};
        inputs[3] = case_input(g, DS_F32, CASE_DIMS(p.n));
        inputs[4] = case_input(g, floats[form % 2], CASE_DIMS(p.m, p.n));
        y = ds_graph_add_node(g, &ds_op_quantised_matmul, &attrs, inputs, 5);
        check_kernel(y, (kernel_case){.seed = (uint64_t)form + 1,
                                      .low = -0.5f,
                                      .high = 0.5f,
                                      .tolerance = 2e-4,
                                      .low_tolerance = 6e-2,
                                      .adjust = draw_codes});
        ds_graph_free(g);
    }
}

static void not_a_number(const ds_node *node, ds_tensor *inputs, void *context) {
    draw_codes(node, inputs, context);
    ((float *)inputs[0].data)[3] = NAN;
}

/* A row that holds a NaN is NaN, and no other row is. */
static void not_a_number_stays_in_its_row(void **unused) {
    (void)unused;
    for (int m = 2; m < 40; m += 37) {
        ds_graph *g = ds_graph_new();
        ds_node *y =
            build(g, (product){.m = m, .n = 9, .k = 40, .int8_input = true}, DS_F32, DS_F32);
        check_kernel(y, (kernel_case){.seed = 3, .tolerance = 2e-4, .adjust = not_a_number});
        ds_graph_free(g);
    }
}

/* The largest sums that bytes give, where instructions that saturate at 16 bits go wrong; and that
 * every instruction set gives the same. */
static void largest_products_do_not_saturate(void **unused) {
    (void)unused;
    enum { K = 193, STRIDE = 256 };
    static int8_t w[STRIDE], x[DS_STREAM_ROWS * STRIDE];
    const ds_simd *tables[DS_SIMD_TABLES];
    const int n_tables = ds_simd_all(tables);
    for (int sign = 0; sign < 4; sign++) {
        memset(w, sign & 1 ? -128 : 127, sizeof w);
        memset(x, sign & 2 ? -127 : 127, sizeof x);
        for (int t = 0; t < n_tables; t++)
            for (int rows = 1; rows <= DS_STREAM_ROWS; rows++) {
                int32_t sums[DS_STREAM_ROWS];
                tables[t]->streams.i8(w, x, STRIDE, rows, K, sums);
                for (int r = 0; r < rows; r++)
                    assert_int_equal(sums[r], K * w[0] * x[0]);
            }
    }
}

/* The reference sees the best table only. */
static void every_instruction_set_sums_alike(void **unused) {
    (void)unused;
    enum { K = 200, ROWS = 3 };
    const ds_simd *tables[DS_SIMD_TABLES];
    const int n_tables = ds_simd_all(tables);
    int8_t bytes[256], x_bytes[ROWS * 256] = {0};
    int32_t words[K / 8];
    float x[ROWS * 256], scale[2] = {0.5f, 2};
    for (int i = 0; i < K; i++)
        bytes[i] = (int8_t)(random_at(1, (uint64_t)i) % 255),
        words[i / 8] = (int32_t)random_at(2, (uint64_t)i);
    for (int i = 0; i < ROWS * 256; i++)
        x[i] = ds_uniform(random_at(3, (uint64_t)i)) - 0.5f,
        x_bytes[i] = (int8_t)((int)(random_at(4, (uint64_t)i) % 255) - 127);
    for (int t = 0; t < n_tables; t++) {
        const ds_streams *s = &tables[t]->streams;
        int32_t sums[ROWS];
        float floats_of_bytes[ROWS], of_words[ROWS], *arranged = NULL;
        s->i8(bytes, x_bytes, 256, ROWS, K, sums);
        s->i8_floats(bytes, x, 256, ROWS, K, floats_of_bytes);
        const int64_t stride = s->arranged_size(K);
        arranged = calloc((size_t)(stride * ROWS), sizeof *arranged);
        for (int r = 0; r < ROWS; r++)
            s->arrange_i4(x + r * 256, K, arranged + r * stride);
        const ds_stream_i4 row = {
            .words = words, .scale = scale, .words_per_group = 16, .n_groups = 2, .k = K};
        s->i4(&row, arranged, stride, ROWS, of_words);
        for (int r = 0; r < ROWS; r++) {
            double whole = 0, real = 0, four = 0;
            for (int i = 0; i < K; i++) {
                whole += bytes[i] * x_bytes[r * 256 + i];
                real += bytes[i] * (double)x[r * 256 + i];
                four += ds_int4_at(words, i) * (double)scale[i / 128] * (double)x[r * 256 + i];
            }
            assert_true(sums[r] == (int32_t)whole);
            assert_true(fabs(real - (double)floats_of_bytes[r]) < 1e-2);
            assert_true(fabs(four - (double)of_words[r]) < 1e-2);
        }
        free(arranged);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_match_reference),
        cmocka_unit_test(four_bits_match_reference),
        cmocka_unit_test(empty_products_are_empty),
        cmocka_unit_test(epilogues_match_reference),
        cmocka_unit_test(not_a_number_stays_in_its_row),
        cmocka_unit_test(largest_products_do_not_saturate),
        cmocka_unit_test(every_instruction_set_sums_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
