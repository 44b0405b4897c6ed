/* This machine's own limits: peak of arithmetic and memory bandwidth, and how near the library's
 * plain matrix products come to them. Every other figure here is to be read against them.
 * bench_machine_limits [--json] [--threads N] [--seconds S] */
#include <getopt.h>
#include <omp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/limits.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/half.h"
#include "deepseek/compile.h"

typedef struct limits {
    double f32, bf16, i8, memory; /* 0: no instructions of its own */
    double product[3];            /* of the library, f32, bf16, i8; in the same unit */
    double took_s;
} limits;

/* Ones: zeros would let some processors run cooler, hence faster, than in earnest. */
static ds_status write_ones(ds_program *p, const char *name, ds_dtype dtype, int64_t n) {
    const size_t size = ds_dtype_size(dtype);
    const float one = 1;
    const uint16_t half = ds_f32_to_bf16(one);
    const int8_t byte = 1;
    const void *value = dtype == DS_F32    ? (const void *)&one
                        : dtype == DS_BF16 ? (const void *)&half
                                           : &byte;
    char *data = malloc((size_t)n * size);
    if (!data)
        return DS_OUT_OF_MEMORY;
    for (int64_t i = 0; i < n; i++)
        memcpy(data + (size_t)i * size, value, size);
    const ds_status status = ds_program_write(p, name, data, (size_t)n * size);
    free(data);
    return status;
}

static ds_status time_product(ds_program *p, int64_t size, double budget_s, double *best) {
    const double end = ds_clock_s() + budget_s;
    for (int i = 0; i < 2 || ds_clock_s() < end; i++) {
        const double start = ds_clock_s();
        DS_TRY(ds_program_run(p));
        const double rate = 2.0 * (double)(size * size * size) / (ds_clock_s() - start);
        *best = rate > *best ? rate : *best;
    }
    return DS_OK;
}

/* One square product as the library runs it, packing and conversions included. */
static ds_status measure_product(ds_backend *cpu, ds_dtype dtype, double budget_s, double *best) {
    enum { SIZE = 1536 };
    const int64_t dims[] = {SIZE, SIZE}, n = (int64_t)SIZE * SIZE;
    ds_state *state = NULL;
    ds_program *program = NULL;
    ds_graph *g = ds_graph_new();
    ds_node *a = ds_graph_input(g, "a", dtype, 2, dims),
            *b = ds_graph_input(g, "b", dtype, 2, dims);
    ds_graph_output(g, "c", ds_graph_matmul(g, a, b, (ds_matmul_opts){0}));
    ds_status status = ds_state_new(cpu, &state);
    if (status == DS_OK)
        status = ds_compile(g, state, (ds_compile_opts){0}, &program);
    if (status == DS_OK)
        status = write_ones(program, "a", dtype, n);
    if (status == DS_OK)
        status = write_ones(program, "b", dtype, n);
    if (status == DS_OK)
        status = time_product(program, SIZE, budget_s, best);
    ds_program_free(program);
    ds_graph_free(g);
    ds_state_free(state);
    return status;
}

static ds_status measure(double seconds, int n_threads, limits *out) {
    static const ds_dtype dtypes[] = {DS_F32, DS_BF16, DS_I8};
    const double part = seconds / 7, start = ds_clock_s();
    ds_backend *cpu = NULL;
    DS_TRY(ds_cpu_limit(DS_LIMIT_F32, part, &out->f32));
    DS_TRY(ds_cpu_limit(DS_LIMIT_BF16, part, &out->bf16));
    DS_TRY(ds_cpu_limit(DS_LIMIT_I8, part, &out->i8));
    DS_TRY(ds_cpu_limit(DS_LIMIT_MEMORY, part, &out->memory));
    ds_status status = ds_backend_open("cpu", (ds_backend_opts){n_threads}, &cpu);
    for (int i = 0; i < 3 && status == DS_OK; i++)
        status = measure_product(cpu, dtypes[i], part, &out->product[i]);
    ds_backend_close(cpu);
    out->took_s = ds_clock_s() - start;
    return status;
}

static double larger(double a, double b) {
    return a > b ? a : b;
}

static void print_json(const limits *l, int n_threads) {
    printf("{\"machine_limits\": true, \"threads\": %d, \"f32_flops_per_s\": %.4g, "
           "\"bf16_flops_per_s\": %.4g, \"bf16_through_f32\": %s, \"i8_ops_per_s\": %.4g, "
           "\"bytes_per_s\": %.4g, \"stream_bytes\": %zu, \"f32_product_flops_per_s\": %.4g, "
           "\"bf16_product_flops_per_s\": %.4g, \"i8_product_ops_per_s\": %.4g, "
           "\"took_s\": %.3f}\n",
           n_threads, l->f32, larger(l->f32, l->bf16), l->bf16 > l->f32 ? "false" : "true", l->i8,
           l->memory, ds_cpu_stream_bytes(), l->product[0], l->product[1], l->product[2],
           l->took_s);
}

static void print_row(const char *name, double value, const char *unit, const char *remark) {
    if (value > 0)
        printf("  %-28s %10.1f %-8s %s\n", name, value / 1e9, unit, remark);
    else
        printf("  %-28s %10s %-8s %s\n", name, "none", "", remark);
}

static void print_table(const limits *l, int n_threads) {
    const bool own_bf16 = l->bf16 > l->f32;
    printf("limits of this machine, %d threads, measured in %.1f s\n", n_threads, l->took_s);
    print_row("f32 peak", l->f32, "GFLOP/s", "multiply-adds in registers");
    print_row("  the library's products", l->product[0], "GFLOP/s", "1536 x 1536 x 1536");
    print_row("bf16 peak", larger(l->f32, l->bf16), "GFLOP/s",
              own_bf16 ? "products in cache"
                       : "that of f32: this processor has no faster way for bf16");
    print_row("  the library's products", l->product[1], "GFLOP/s", own_bf16 ? "" : "through f32");
    print_row("int8 peak", l->i8, "GOP/s", "products in cache");
    print_row("  the library's products", l->product[2], "GOP/s", "");
    printf("  %-28s %10.1f %-8s streaming through %.1f GB\n", "memory", l->memory / 1e9, "GB/s",
           (double)ds_cpu_stream_bytes() / 1e9);
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"json", no_argument, NULL, 'j'},
                                            {"threads", required_argument, NULL, 't'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {0}};
    bool json = false;
    int threads = omp_get_num_procs();
    double seconds = 6;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'j': json = true; break;
        case 't': threads = atoi(optarg) > 0 ? atoi(optarg) : threads; break;
        case 's': seconds = atof(optarg); break;
        default:
            fprintf(stderr, "usage: bench_machine_limits [--json] [--threads N] [--seconds S]\n");
            return 2;
        }
    }
    omp_set_num_threads(threads);
    limits found = {0};
    if (measure(seconds, threads, &found) != DS_OK) {
        fprintf(stderr, "bench_machine_limits: %s\n", ds_error());
        return 1;
    }
    if (json)
        print_json(&found, threads);
    else
        print_table(&found, threads);
    return 0;
}
