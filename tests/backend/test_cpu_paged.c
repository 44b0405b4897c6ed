/* Attention over keys and values in blocks: the CPU's kernel against the reference, the reference
 * against plain attention over the same keys in a row, and damaged tables. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "graph/ops/ops.h"
#include "support/kernel_case.h"

enum { BLOCKS = 24, BLOCK_SIZE = 16, SEQUENCES = 4, MOST_BLOCKS = 6 };

typedef struct layout {
    int64_t tokens;
    int32_t owners[200], positions[200];
} layout;

/* A chunk of a prompt, single tokens of two sequences, tokens of nobody, and a whole short prompt.
 */
static layout mixed(void) {
    layout l = {0};
    for (int i = 0; i < 70; i++, l.tokens++)
        l.owners[l.tokens] = 0, l.positions[l.tokens] = 21 + i;
    l.owners[l.tokens] = 1, l.positions[l.tokens++] = 37;
    l.owners[l.tokens] = -1, l.positions[l.tokens++] = 0;
    l.owners[l.tokens] = 2, l.positions[l.tokens++] = 0;
    for (int i = 0; i < 9; i++, l.tokens++)
        l.owners[l.tokens] = 3, l.positions[l.tokens] = i;
    l.owners[l.tokens] = 7, l.positions[l.tokens++] = 3; /* there is no such sequence */
    return l;
}

/* Rows of whole numbers end in scales that are numbers. */
static void draw_scales(const ds_tensor *cache) {
    const int64_t row = cache->dims[3], n = ds_count(cache->dims, 3);
    for (int64_t i = 0; cache->dtype == DS_I8 && i < n; i++) {
        const float scale = 0.001f * (float)(1 + i % 17);
        memcpy((int8_t *)cache->data + (i + 1) * row - DS_CACHE_SCALE, &scale, sizeof scale);
    }
}

/* The blocks of the sequences, all different. */
static void place(const ds_node *node, ds_tensor *inputs, void *context) {
    (void)node;
    const layout *l = context;
    int32_t *tables = inputs[3].data;
    draw_scales(&inputs[1]);
    draw_scales(&inputs[2]);
    for (int i = 0; i < SEQUENCES * MOST_BLOCKS; i++)
        tables[i] = (i * 7 + 3) % BLOCKS;
    memcpy(inputs[4].data, l->owners, (size_t)l->tokens * sizeof *l->owners);
    memcpy(inputs[5].data, l->positions, (size_t)l->tokens * sizeof *l->positions);
}

static ds_node *attention(ds_graph *g, const layout *l, ds_dtype dtype, ds_dtype cache,
                          int64_t heads, int64_t kv_heads, int64_t dim, int64_t v_dim,
                          int64_t window) {
    ds_node *q = case_input(g, dtype, CASE_DIMS(l->tokens, heads, dim));
    const int64_t scale = cache == DS_I8 ? DS_CACHE_SCALE : 0;
    ds_node *k = case_input(g, cache, CASE_DIMS(BLOCKS, BLOCK_SIZE, kv_heads, dim + scale));
    ds_node *v = case_input(g, cache, CASE_DIMS(BLOCKS, BLOCK_SIZE, kv_heads, v_dim + scale));
    const ds_paged_keys_of where = {case_input(g, DS_I32, CASE_DIMS(SEQUENCES, MOST_BLOCKS)),
                                    case_input(g, DS_I32, CASE_DIMS(l->tokens)),
                                    case_input(g, DS_I32, CASE_DIMS(l->tokens))};
    return ds_graph_paged_attention(g, q, k, v, where, (ds_attention_opts){.window = window});
}

static void kernel_matches_reference(void **unused) {
    (void)unused;
    static const ds_dtype dtypes[][2] = {
        {DS_F32, DS_F32}, {DS_BF16, DS_BF16}, {DS_F32, DS_BF16}, {DS_F32, DS_I8}, {DS_BF16, DS_I8}};
    layout l = mixed();
    for (int form = 0; form < 20; form++) {
        ds_graph *g = ds_graph_new();
        const ds_dtype *d = dtypes[form % 5];
        ds_node *y = attention(g, &l, d[0], d[1], form & 1 ? 6 : 4, form & 1 ? 2 : 4,
                               form & 2 ? 24 : 64, form & 4 ? 20 : 64, form & 8 ? 19 : 0);
        check_kernel(y, (kernel_case){.seed = (uint64_t)form,
                                      .strided = form % 2,
                                      .int_low = -127,
                                      .int_high = 128,
                                      .tolerance = 3e-5,
                                      .low_tolerance = 2e-2,
                                      .adjust = place,
                                      .context = &l});
        ds_graph_free(g);
    }
}

static void damage(const ds_node *node, ds_tensor *inputs, void *context) {
    place(node, inputs, context);
    int32_t *tables = inputs[3].data, *positions = inputs[5].data;
    tables[2] = -1;                                          /* of the chunk's sequence */
    tables[MOST_BLOCKS] = BLOCKS;                            /* of the next one */
    positions[((const layout *)context)->tokens - 2] = 1000; /* past any table */
}

static void bad_tables_give_zeros(void **unused) {
    (void)unused;
    layout l = mixed();
    ds_graph *g = ds_graph_new();
    ds_node *y = attention(g, &l, DS_F32, DS_F32, 4, 2, 32, 32, 0);
    check_kernel(y, (kernel_case){.seed = 5, .adjust = damage, .context = &l});
    ds_graph_free(g);
}

/* One sequence in blocks that follow each other is a plain cache. */
static void reference_is_attention(void **unused) {
    (void)unused;
    enum { TOKENS = 13, HEADS = 4, KV = 2, DIM = 8, KEYS = 29 };
    static float q[TOKENS * HEADS * DIM], k[32 * KV * DIM], v[32 * KV * DIM];
    static float paged[TOKENS * HEADS * DIM], plain[TOKENS * HEADS * DIM];
    static float lse[HEADS * TOKENS];
    int32_t tables[] = {0, 1}, owners[TOKENS] = {0}, positions[TOKENS];
    for (int i = 0; i < TOKENS * HEADS * DIM; i++)
        q[i] = (float)ds_philox(1, (uint64_t)i, 0).word[0] * 0x1p-31f - 1;
    for (int i = 0; i < 32 * KV * DIM; i++) {
        k[i] = (float)ds_philox(2, (uint64_t)i, 0).word[0] * 0x1p-31f - 1;
        v[i] = (float)ds_philox(3, (uint64_t)i, 0).word[0] * 0x1p-31f - 1;
    }
    for (int i = 0; i < TOKENS; i++)
        positions[i] = KEYS - TOKENS + i;
    ds_graph *g = ds_graph_new();
    const ds_attention_opts opts = {.causal = true, .scale = 0.5f, .window = 11};
    const ds_paged_keys_of where = {ds_graph_input(g, "t", DS_I32, 2, (int64_t[]){1, 2}),
                                    ds_graph_input(g, "o", DS_I32, 1, (int64_t[]){TOKENS}),
                                    ds_graph_input(g, "p", DS_I32, 1, (int64_t[]){TOKENS})};
    ds_node *a = ds_graph_paged_attention(
        g, ds_graph_input(g, "q", DS_F32, 3, (int64_t[]){TOKENS, HEADS, DIM}),
        ds_graph_input(g, "k", DS_F32, 4, (int64_t[]){2, 16, KV, DIM}),
        ds_graph_input(g, "v", DS_F32, 4, (int64_t[]){2, 16, KV, DIM}), where, opts);
    ds_node *b = ds_graph_attention(
        g, ds_graph_input(g, "q4", DS_F32, 4, (int64_t[]){1, TOKENS, HEADS, DIM}),
        ds_graph_input(g, "k4", DS_F32, 4, (int64_t[]){1, KEYS, KV, DIM}),
        ds_graph_input(g, "v4", DS_F32, 4, (int64_t[]){1, KEYS, KV, DIM}), NULL, opts);
    assert_true(ds_graph_ok(g));
    const ds_tensor of_paged[] = {
        ds_tensor_of(q, DS_F32, 3, (int64_t[]){TOKENS, HEADS, DIM}),
        ds_tensor_of(k, DS_F32, 4, (int64_t[]){2, 16, KV, DIM}),
        ds_tensor_of(v, DS_F32, 4, (int64_t[]){2, 16, KV, DIM}),
        ds_tensor_of(tables, DS_I32, 2, (int64_t[]){1, 2}),
        ds_tensor_of(owners, DS_I32, 1, (int64_t[]){TOKENS}),
        ds_tensor_of(positions, DS_I32, 1, (int64_t[]){TOKENS}),
    };
    const ds_tensor of_plain[] = {
        ds_tensor_of(q, DS_F32, 4, (int64_t[]){1, TOKENS, HEADS, DIM}),
        ds_tensor_of(k, DS_F32, 4, (int64_t[]){1, KEYS, KV, DIM}),
        ds_tensor_of(v, DS_F32, 4, (int64_t[]){1, KEYS, KV, DIM}),
    };
    const ds_tensor to_paged[] = {ds_tensor_of(paged, DS_F32, 3, (int64_t[]){TOKENS, HEADS, DIM})};
    const ds_tensor to_plain[] = {
        ds_tensor_of(plain, DS_F32, 4, (int64_t[]){1, TOKENS, HEADS, DIM}),
        ds_tensor_of(lse, DS_F32, 3, (int64_t[]){1, HEADS, TOKENS})};
    ds_op_paged_attention.reference(&(ds_kernel_args){
        .node = a, .n_inputs = 6, .n_outputs = 1, .inputs = of_paged, .outputs = to_paged});
    ds_op_attention.reference(&(ds_kernel_args){
        .node = b, .n_inputs = 3, .n_outputs = 2, .inputs = of_plain, .outputs = to_plain});
    for (int i = 0; i < TOKENS * HEADS * DIM; i++)
        assert_float_equal(paged[i], plain[i], 1e-6);
    ds_graph_free(g);
}

static void spread_slots(const ds_node *node, ds_tensor *inputs, void *context) {
    (void)node, (void)context;
    int32_t *slots = inputs[2].data;
    for (int64_t i = 0; i < inputs[2].dims[0]; i++)
        slots[i] = i % 5 == 4 ? -1 : (int32_t)(i * 11 % (BLOCKS * BLOCK_SIZE));
    slots[0] = BLOCKS * BLOCK_SIZE; /* left out */
}

static void writing_matches_reference(void **unused) {
    (void)unused;
    for (int form = 0; form < 4; form++) {
        ds_graph *g = ds_graph_new();
        const ds_dtype dtype = form % 2 ? DS_BF16 : DS_F32, stored = form < 2 ? dtype : DS_I8;
        const int64_t row = 8 + (form < 2 ? 0 : DS_CACHE_SCALE);
        ds_node *cache = ds_graph_variable(g, "c", stored, 4,
                                           (int64_t[]){BLOCKS, BLOCK_SIZE, 2, row}, DS_INIT_ZEROS);
        ds_node *x = case_input(g, dtype, CASE_DIMS(20, 2, 8));
        ds_node *y = ds_graph_paged_write(g, cache, x, case_input(g, DS_I32, CASE_DIMS(20)));
        check_kernel(y, (kernel_case){.seed = 1, .adjust = spread_slots});
        ds_graph_free(g);
    }
}

static void wrong_shapes_are_refused(void **unused) {
    (void)unused;
    layout l = {.tokens = 3};
    ds_graph *g = ds_graph_new();
    assert_null(attention(g, &l, DS_F32, DS_F32, 5, 2, 8, 8, 0)); /* 5 heads over 2 */
    assert_false(ds_graph_ok(g));
    ds_graph_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernel_matches_reference), cmocka_unit_test(bad_tables_give_zeros),
        cmocka_unit_test(reference_is_attention),   cmocka_unit_test(writing_matches_reference),
        cmocka_unit_test(wrong_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
