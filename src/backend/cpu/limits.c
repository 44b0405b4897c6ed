/* The machine's own limits, found by trying: multiply-adds in registers, which is what f32 can do
 * at best; matrix products by oneDNN with packed weights and by AMX tiles over a few shapes that
 * stay in a core's own cache, for the dtypes with instructions of their own; and two ways of
 * streaming through arrays that are too large for any cache. The best of all tries counts, since
 * whatever disturbs a measurement only makes it slower.
 *
 * For arithmetic every thread works and is timed alone, all at once, and the rates are added: where
 * other programs hold a core now and then, threads that wait for each other would show those
 * programs' time slices instead of the machine. */
#include "backend/cpu/limits.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "backend/cpu/dnnl.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/half.h"
#include "deepseek/tensor.h"

#include <omp.h>

/* ---- matrix products ------------------------------------------------------------------------- */

typedef struct shape {
    int64_t m, k, n;
} shape;

/* From small to large: on a slow machine the large ones do not fit the budget. */
static const shape shapes[] = {
    {256, 256, 256}, {512, 512, 512}, {512, 1024, 512}, {1024, 512, 512}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

typedef struct trial {
    ds_packing packing;
    ds_dnnl_gemm *gemm;
    void *a, *b, *c, *workspace;
    size_t a_bytes, b_bytes, c_bytes, workspace_bytes;
} trial;

static void trial_close(trial *t) {
    ds_dnnl_gemm_free(t->gemm);
    ds_pages_free(t->a, t->a_bytes);
    ds_pages_free(t->b, t->b_bytes);
    ds_pages_free(t->c, t->c_bytes);
    ds_pages_free(t->workspace, t->workspace_bytes);
}

static ds_dtype result_dtype(ds_dtype dtype) {
    return dtype == DS_I8 ? DS_I32 : dtype;
}

/* Ones: zeros would let some processors run cooler, hence faster, than in earnest. */
static void fill(void *data, ds_dtype dtype, size_t bytes) {
    const float one = 1;
    const uint16_t half = ds_f32_to_bf16(one);
    const size_t size = ds_dtype_size(dtype);
    const void *value = dtype == DS_F32 ? (const void *)&one : &half;
    if (dtype == DS_I8)
        memset(data, 1, bytes);
    else
        for (size_t i = 0; i < bytes / size; i++)
            memcpy((char *)data + i * size, value, size);
}

static ds_status trial_open(ds_dtype dtype, const shape *s, trial *t) {
    ds_product p = {.batch = 1, .m = s->m, .k = s->k, .n = s->n};
    p.a = (ds_operand){.dtype = dtype, .row_stride = s->k, .column_stride = 1};
    p.b = (ds_operand){.dtype = dtype, .row_stride = s->n, .column_stride = 1};
    p.c = (ds_operand){.dtype = result_dtype(dtype), .row_stride = s->n, .column_stride = 1};
    DS_TRY(ds_packing_of(dtype, s->m, s->k, s->n, &t->packing));
    DS_TRY(ds_dnnl_gemm_new(&p, &t->packing, &t->gemm));
    t->a_bytes = (size_t)(s->m * s->k) * ds_dtype_size(dtype);
    t->b_bytes = t->packing.bytes;
    t->c_bytes = (size_t)(s->m * s->n) * ds_dtype_size(p.c.dtype);
    t->workspace_bytes = ds_dnnl_gemm_workspace(t->gemm);
    t->a = ds_pages_alloc(t->a_bytes);
    t->b = ds_pages_alloc(t->b_bytes);
    t->c = ds_pages_alloc(t->c_bytes);
    t->workspace = ds_pages_alloc(t->workspace_bytes);
    if (!t->a || !t->b || !t->c || !t->workspace)
        return DS_OUT_OF_MEMORY;
    fill(t->a, dtype, t->a_bytes);
    fill(t->b, dtype, t->b_bytes); /* the same number everywhere: its layout does not matter */
    return DS_OK;
}

static ds_status trial_run(const trial *t, double *seconds) {
    const double start = ds_clock_s();
    DS_TRY(ds_dnnl_gemm_run(t->gemm, t->a, t->b, t->c, NULL, NULL, t->workspace));
    *seconds = ds_clock_s() - start;
    return DS_OK;
}

/* Repeats one shape until the deadline, twice at least. */
static ds_status try_shape(ds_dtype dtype, const shape *s, double deadline, double *best) {
    const double flops = 2.0 * (double)s->m * (double)s->k * (double)s->n;
    trial t = {0};
    ds_status status = trial_open(dtype, s, &t);
    for (int i = 0; status == DS_OK && (i < 2 || ds_clock_s() < deadline); i++) {
        double seconds = 0;
        status = trial_run(&t, &seconds);
        if (status == DS_OK && seconds > 0 && flops / seconds > *best)
            *best = flops / seconds;
    }
    trial_close(&t);
    return status;
}

/* Tiles alone: a panel from the first cache against rows from the second one. */
static ds_status try_tiles(double deadline, double *best) {
    enum { M = 256, K = 384, N = 32 };
    const ds_tiles *tiles = ds_tiles_amx();
    if (!tiles)
        return DS_OK;
    const double flops = 2.0 * M * K * N;
    uint16_t *a = ds_pages_alloc(M * K * sizeof *a), *b = ds_pages_alloc(K * N * sizeof *b);
    float *c = ds_pages_alloc(M * N * sizeof *c);
    if (a && b && c) {
        fill(a, DS_BF16, M * K * sizeof *a);
        fill(b, DS_BF16, K * N * sizeof *b);
        tiles->begin();
        for (int i = 0; i < 2 || ds_clock_s() < deadline; i++) {
            enum { REPEATS = 16 }; /* one is too short for the clock */
            const double start = ds_clock_s();
            for (int j = 0; j < REPEATS; j++)
                tiles->multiply(a, K, b, c, N, M, N, K, false);
            const double seconds = ds_clock_s() - start;
            if (seconds > 0 && REPEATS * flops / seconds > *best)
                *best = REPEATS * flops / seconds;
        }
        tiles->end();
    }
    const ds_status status = a && b && c ? DS_OK : DS_OUT_OF_MEMORY;
    ds_pages_free(a, M * K * sizeof *a);
    ds_pages_free(b, K * N * sizeof *b);
    ds_pages_free(c, M * N * sizeof *c);
    return status;
}

/* What the calling thread reaches alone, with products of dtype. */
static ds_status try_products(ds_dtype dtype, double end, double *best) {
    if (dtype == DS_BF16)
        DS_TRY(try_tiles(ds_clock_s() + (end - ds_clock_s()) / (N_SHAPES + 1), best));
    for (int i = 0; i < N_SHAPES; i++) {
        const double now = ds_clock_s(), share = (end - now) / (N_SHAPES - i);
        if (i > 0 && now >= end)
            break;
        const ds_status status = try_shape(dtype, &shapes[i], now + share, best);
        if (status == DS_UNSUPPORTED)
            return DS_OK;
        DS_TRY(status);
    }
    return DS_OK;
}

/* ---- multiply-adds --------------------------------------------------------------------------- */

/* What the calling thread reaches alone, with any instruction set: the widest need not win. */
static ds_status try_multiply_adds(double end, double *best) {
    enum { ROUNDS = 1 << 14 }; /* some 30 µs: seldom disturbed, long for the clock */
    const ds_simd *tables[DS_SIMD_TABLES];
    const int n_tables = ds_simd_all(tables);
    for (int i = 0; i < n_tables; i++) {
        const double deadline = ds_clock_s() + (end - ds_clock_s()) / (n_tables - i);
        for (int repeat = 0; repeat < 2 || ds_clock_s() < deadline; repeat++) {
            float sum = 0;
            const double start = ds_clock_s();
            const double flops = tables[i]->multiply_adds(ROUNDS, &sum);
            const double seconds = ds_clock_s() - start;
            if (seconds > 0 && sum > 0 && flops / seconds > *best)
                *best = flops / seconds;
        }
    }
    return DS_OK;
}

static ds_status try_arithmetic(ds_cpu_limit_kind kind, double end, double *best) {
    switch (kind) {
    case DS_LIMIT_BF16: return try_products(DS_BF16, end, best);
    case DS_LIMIT_I8: return try_products(DS_I8, end, best);
    default: return try_multiply_adds(end, best);
    }
}

static ds_status measure_arithmetic(ds_cpu_limit_kind kind, double budget_s, double *per_s) {
    double total = 0;
    ds_status failed = DS_OK;
#pragma omp parallel reduction(+ : total)
    {
        double best = 0;
        omp_set_num_threads(1); /* of this thread's products; the setting ends with the region */
        const ds_status status = try_arithmetic(kind, ds_clock_s() + budget_s, &best);
        total += best;
        if (status != DS_OK) {
#pragma omp critical
            failed = status;
        }
    }
    *per_s = total;
    return failed == DS_OK ? DS_OK
                           : ds_fail(failed, "cannot measure the processor's peak: %s",
                                     ds_status_string(failed));
}

/* ---- memory ---------------------------------------------------------------------------------- */

static size_t last_cache_bytes(void) {
#ifdef _SC_LEVEL3_CACHE_SIZE
    const long size = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return size > 0 ? (size_t)size : 0;
#else
    return 0;
#endif
}

size_t ds_cpu_stream_bytes(void) {
    const size_t least = (size_t)1 << 30, beyond_cache = 4 * last_cache_bytes();
    const size_t physical = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    const size_t wanted = beyond_cache > least ? beyond_cache : least;
    return wanted < physical / 4 ? wanted : physical / 4;
}

/* Each thread walks its own part; both ways read x, and write y or update it. */
static double stream_once(float *x, float *y, int64_t n, bool copies) {
    const ds_simd *simd = ds_cpu_simd();
    const double start = ds_clock_s();
#pragma omp parallel
    {
        const int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
        const int64_t from = n * part / parts, to = n * (part + 1) / parts;
        if (copies)
            memcpy(y + from, x + from, (size_t)(to - from) * sizeof *y);
        else
            simd->axpy(1e-6f, x + from, y + from, to - from);
    }
    const double streams = copies ? 2 : 3;
    return streams * (double)n * sizeof *x / (ds_clock_s() - start);
}

/* Pages that were never written are all one page of zeros, which is read from the cache: both
 * arrays are written first. */
static void touch(float *x, int64_t n) {
    const ds_simd *simd = ds_cpu_simd();
#pragma omp parallel
    {
        const int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
        const int64_t from = n * part / parts, to = n * (part + 1) / parts;
        simd->fill(1, x + from, to - from);
    }
}

static ds_status measure_memory(double budget_s, double *bytes_per_s) {
    const int64_t n = (int64_t)(ds_cpu_stream_bytes() / (2 * sizeof(float)));
    const size_t bytes = (size_t)n * sizeof(float);
    float *x = ds_pages_alloc(bytes), *y = ds_pages_alloc(bytes);
    *bytes_per_s = 0;
    if (x && y) {
        touch(x, n);
        touch(y, n);
    }
    const double end = ds_clock_s() + budget_s;
    for (int i = 0; x && y && (i < 2 || ds_clock_s() < end); i++) {
        const double rate = stream_once(x, y, n, i % 2 == 0);
        if (rate > *bytes_per_s)
            *bytes_per_s = rate;
    }
    const ds_status status = x && y ? DS_OK : DS_OUT_OF_MEMORY;
    ds_pages_free(x, bytes);
    ds_pages_free(y, bytes);
    return status;
}

/* ---- each of them, once ---------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    int n_threads; /* 0: not measured yet */
    double budget_s, per_s;
} known[DS_LIMITS];

ds_status ds_cpu_limit(ds_cpu_limit_kind kind, double budget_s, double *per_s) {
    ds_status status = DS_OK;
    const int n_threads = omp_get_max_threads();
    pthread_mutex_lock(&lock);
    if (known[kind].n_threads != n_threads || known[kind].budget_s < budget_s) {
        double found = 0;
        status = kind == DS_LIMIT_MEMORY ? measure_memory(budget_s, &found)
                                         : measure_arithmetic(kind, budget_s, &found);
        if (status == DS_OK) {
            known[kind].n_threads = n_threads;
            known[kind].budget_s = budget_s;
            known[kind].per_s = found;
        }
    }
    *per_s = known[kind].per_s;
    pthread_mutex_unlock(&lock);
    return status;
}
