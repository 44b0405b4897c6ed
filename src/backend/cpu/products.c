/* Products of matrices of any sizes on tiles. The loops are those of Goto and van de Geijn (2008,
 * "Anatomy of high-performance matrix multiplication"): of one block of c, slab after slab of k, a
 * block of b is packed for the second cache and strips of a are staged beside it. Staging turns,
 * converts and pads with zeros, so that tiles never meet an edge. */
#include "backend/cpu/products.h"

#include <string.h>

#include <omp.h>

enum {
    ROWS = 512,    /* of a block of c */
    COLUMNS = 256, /* likewise */
    FEWEST = 64,   /* columns of a block when there would be too few blocks for the threads */
    STRIP = 128,   /* rows of a staged at a time */
    DEPTH = 256,   /* of a slab of k */
    TILE_ROWS = 16,
};

ds_matrix ds_matrix_of(const ds_tensor *t, int64_t offset, int64_t columns) {
    return (ds_matrix){ds_at(t, offset), t->dtype, columns, 1};
}

ds_matrix ds_matrix_turned(ds_matrix x) {
    return (ds_matrix){x.data, x.dtype, x.column_stride, x.row_stride};
}

const ds_tiles *ds_products_tiles(ds_dtype dtype) {
    const ds_tiles *amx = dtype == DS_BF16 ? ds_tiles_amx() : NULL;
    return amx ? amx : &ds_cpu_simd()->tiles;
}

/* ---- one thread's memory --------------------------------------------------------------------- */

typedef struct scratch {
    const ds_tiles *tiles;
    char *left;   /* [STRIP, DEPTH] of a, in the dtype of the tiles */
    char *stage;  /* [DEPTH, COLUMNS] of b where it cannot be packed as it lies; or of a, turned */
    char *packed; /* [DEPTH, COLUMNS] of b */
    float *sums;  /* [ROWS, COLUMNS] */
} scratch;

static size_t scratch_size(const ds_tiles *tiles) {
    const size_t size = ds_dtype_size(tiles->dtype);
    return (STRIP * DEPTH + 2 * DEPTH * COLUMNS) * size + ROWS * COLUMNS * sizeof(float);
}

static scratch scratch_at(const ds_tiles *tiles, void *memory) {
    const size_t size = ds_dtype_size(tiles->dtype);
    scratch s = {.tiles = tiles, .sums = memory};
    s.left = (char *)memory + ROWS * COLUMNS * sizeof(float);
    s.stage = s.left + STRIP * DEPTH * size;
    s.packed = s.stage + DEPTH * COLUMNS * size;
    return s;
}

size_t ds_products_workspace(const ds_tiles *tiles, int n_threads) {
    return scratch_size(tiles) * (size_t)n_threads;
}

/* ---- staging --------------------------------------------------------------------------------- */

static const char *element(const ds_matrix *x, int64_t row, int64_t column) {
    return (const char *)x->data +
           (row * x->row_stride + column * x->column_stride) * (int64_t)ds_dtype_size(x->dtype);
}

static void convert(ds_dtype from_dtype, const char *from, ds_dtype to_dtype, char *to, int64_t n) {
    const ds_simd *simd = ds_cpu_simd();
    float wide[COLUMNS];
    if (from_dtype == to_dtype)
        memcpy(to, from, (size_t)n * ds_dtype_size(to_dtype));
    else if (to_dtype == DS_F32)
        simd->load(from_dtype, from, (float *)(void *)to, n);
    else {
        simd->load(from_dtype, from, wide, n);
        simd->store(to_dtype, wide, to, n);
    }
}

/* [rows, columns], contiguous along columns, as [padded_rows, padded_columns] in the dtype of the
 * tiles. */
static void stage(const scratch *s, const char *from, ds_dtype dtype, int64_t stride, int64_t rows,
                  int64_t columns, int64_t padded_rows, int64_t padded_columns, char *to) {
    const int64_t size = (int64_t)ds_dtype_size(s->tiles->dtype);
    const int64_t from_bytes = stride * (int64_t)ds_dtype_size(dtype);
    const size_t gap = (size_t)((padded_columns - columns) * size);
    for (int64_t r = 0; r < rows; r++) {
        char *row = to + r * padded_columns * size;
        convert(dtype, from + r * from_bytes, s->tiles->dtype, row, columns);
        memset(row + columns * size, 0, gap);
    }
    memset(to + rows * padded_columns * size, 0,
           (size_t)((padded_rows - rows) * padded_columns * size));
}

/* to[c · to_stride + r] = from[r · from_stride + c], of the tiles' dtype. */
static void turn(const scratch *s, const char *from, int64_t from_stride, char *to,
                 int64_t to_stride, int64_t rows, int64_t columns) {
    const ds_simd *simd = ds_cpu_simd();
    const void *x = from;
    void *y = to;
    if (ds_dtype_size(s->tiles->dtype) == sizeof(uint16_t))
        simd->transpose16(x, from_stride, y, to_stride, rows, columns);
    else
        simd->transpose32(x, from_stride, y, to_stride, rows, columns);
}

/* Rows [row, row + n) of a, columns [k, k + depth), as s->left. */
static void stage_left(const scratch *s, const ds_matrix *a, int64_t row, int64_t k, int64_t n,
                       int64_t depth) {
    const int64_t deep = ds_round_up(depth, DS_TILE), high = ds_round_up(n, TILE_ROWS);
    const int64_t size = (int64_t)ds_dtype_size(s->tiles->dtype);
    const char *from = element(a, row, k);
    if (a->column_stride == 1) {
        stage(s, from, a->dtype, a->row_stride, n, depth, high, deep, s->left);
        return;
    }
    int64_t stride = a->column_stride;
    if (a->dtype != s->tiles->dtype) {
        stage(s, from, a->dtype, stride, depth, n, depth, n, s->stage);
        from = s->stage;
        stride = n;
    }
    turn(s, from, stride, s->left, deep, depth, n);
    for (int64_t r = 0; r < n; r++)
        memset(s->left + (r * deep + depth) * size, 0, (size_t)((deep - depth) * size));
    memset(s->left + n * deep * size, 0, (size_t)((high - n) * deep * size));
}

/* Rows [k, k + depth) of b, columns [column, column + n), as s->packed. */
static void pack_right(const scratch *s, const ds_matrix *b, int64_t k, int64_t column,
                       int64_t depth, int64_t n) {
    const int64_t deep = ds_round_up(depth, DS_TILE), wide = ds_round_up(n, DS_TILE);
    const bool by_rows = b->column_stride == 1;
    const char *from = element(b, k, column);
    int64_t stride = by_rows ? b->row_stride : b->column_stride;
    const bool fits = b->dtype == s->tiles->dtype && deep == depth && wide == n &&
                      stride % 2 == 0; /* bf16 is read in pairs */
    if (!fits) {
        if (by_rows)
            stage(s, from, b->dtype, stride, depth, n, deep, wide, s->stage);
        else
            stage(s, from, b->dtype, stride, n, depth, wide, deep, s->stage);
        from = s->stage;
        stride = by_rows ? wide : deep;
    }
    (by_rows ? s->tiles->pack_rows : s->tiles->pack_columns)(from, stride, deep, wide, s->packed);
}

/* ---- one block of c -------------------------------------------------------------------------- */

typedef struct block {
    const ds_matrix_product *product;
    int64_t row, column, rows, columns;
} block;

static void add_slab(const scratch *s, const block *x, int64_t k, int64_t depth) {
    const ds_matrix_product *p = x->product;
    const int64_t deep = ds_round_up(depth, DS_TILE), wide = ds_round_up(x->columns, DS_TILE);
    pack_right(s, &p->b, k, x->column, depth, x->columns);
    for (int64_t i = 0; i < x->rows; i += STRIP) {
        const int64_t n = ds_least(STRIP, x->rows - i);
        stage_left(s, &p->a, x->row + i, k, n, depth);
        s->tiles->multiply(s->left, deep, s->packed, s->sums + i * COLUMNS, COLUMNS,
                           ds_round_up(n, TILE_ROWS), wide, deep, k > 0);
    }
}

static void store_sums(const scratch *s, const block *x) {
    const ds_matrix_product *p = x->product;
    const ds_simd *simd = ds_cpu_simd();
    const int64_t size = (int64_t)ds_dtype_size(p->c_dtype);
    for (int64_t r = 0; r < x->rows; r++) {
        void *c = (char *)p->c + ((x->row + r) * p->c_stride + x->column) * size;
        float *sums = s->sums + r * COLUMNS;
        if (p->bias)
            simd->unary(DS_OFFSET, p->bias[x->row + r], sums, sums, x->columns);
        if (p->accumulates)
            simd->axpy(1, sums, c, x->columns);
        else
            simd->store(p->c_dtype, sums, c, x->columns);
    }
}

static void make_block(const scratch *s, const block *x) {
    const int64_t k = x->product->k;
    if (k == 0)
        ds_cpu_simd()->fill(0, s->sums, x->rows * COLUMNS);
    for (int64_t start = 0; start < k; start += DEPTH)
        add_slab(s, x, start, ds_least(DEPTH, k - start));
    store_sums(s, x);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static int64_t count_blocks(const ds_matrix_product *p, int64_t columns) {
    return (p->m + ROWS - 1) / ROWS * ((p->n + columns - 1) / columns);
}

static int64_t count_all(const ds_matrix_product *products, int64_t n_products, int64_t columns) {
    int64_t count = 0;
    for (int64_t i = 0; i < n_products; i++)
        count += count_blocks(&products[i], columns);
    return count;
}

/* Narrow blocks where wide ones would leave threads idle. */
static int64_t choose_columns(const ds_matrix_product *products, int64_t n_products,
                              int n_threads) {
    enum { BLOCKS_A_THREAD = 4 };
    int64_t columns = COLUMNS;
    while (columns > FEWEST && n_threads > 1 &&
           count_all(products, n_products, columns) < (int64_t)BLOCKS_A_THREAD * n_threads)
        columns /= 2;
    return columns;
}

/* The i-th block, products in order; blocks of one product that read the same columns of b follow
 * each other. */
static block find_block(const ds_matrix_product *products, int64_t columns, int64_t i) {
    const ds_matrix_product *p = products;
    for (int64_t n; i >= (n = count_blocks(p, columns)); p++)
        i -= n;
    const int64_t high = (p->m + ROWS - 1) / ROWS;
    block x = {.product = p, .row = i % high * ROWS, .column = i / high * columns};
    x.rows = ds_least(ROWS, p->m - x.row);
    x.columns = ds_least(columns, p->n - x.column);
    return x;
}

void ds_products_run(const ds_tiles *tiles, const ds_matrix_product *products, int64_t n_products,
                     int n_threads, void *workspace) {
    int64_t work = 0;
    for (int64_t i = 0; i < n_products; i++) /* a multiply-add is a small share of an element */
        work += products[i].m * products[i].n * (1 + products[i].k / 16);
    const int threads = ds_cpu_threads(work, n_threads);
    const int64_t columns = choose_columns(products, n_products, threads);
    const int64_t n_blocks = count_all(products, n_products, columns);
#pragma omp parallel num_threads(threads)
    {
        const scratch s = scratch_at(tiles, (char *)workspace +
                                                (size_t)omp_get_thread_num() * scratch_size(tiles));
        if (tiles->begin)
            tiles->begin();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < n_blocks; i++) {
            const block x = find_block(products, columns, i);
            make_block(&s, &x);
        }
        if (tiles->end)
            tiles->end();
    }
}
