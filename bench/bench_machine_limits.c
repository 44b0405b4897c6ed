/* This machine's own limits: peak of matrix products and memory bandwidth. Every other figure here
 * is to be read against them. machine_limits [--json] [--threads N] [--seconds S] */
#include <getopt.h>
#include <omp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/cpu/limits.h"
#include "base/clock.h"
#include "base/error.h"

int main(int argc, char **argv) {
    static const struct option options[] = {{"json", no_argument, NULL, 'j'},
                                            {"threads", required_argument, NULL, 't'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {0}};
    bool json = false;
    double seconds = 6;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'j': json = true; break;
        case 't': omp_set_num_threads(atoi(optarg) > 0 ? atoi(optarg) : 1); break;
        case 's': seconds = atof(optarg); break;
        default:
            fprintf(stderr, "usage: machine_limits [--json] [--threads N] [--seconds S]\n");
            return 2;
        }
    }
    ds_cpu_limits limits;
    const double start = ds_clock_s();
    if (ds_cpu_limits_measure(&limits, seconds) != DS_OK) {
        fprintf(stderr, "machine_limits: %s\n", ds_error());
        return 1;
    }
    const double took = ds_clock_s() - start;
    if (json) {
        printf("{\"threads\": %d, \"f32_flops_per_s\": %.4g, \"bf16_flops_per_s\": %.4g, "
               "\"i8_ops_per_s\": %.4g, \"bytes_per_s\": %.4g, \"took_s\": %.3f}\n",
               limits.n_threads, limits.f32_flops_per_s, limits.bf16_flops_per_s,
               limits.i8_ops_per_s, limits.bytes_per_s, took);
        return 0;
    }
    const struct {
        const char *name, *unit;
        double value;
    } rows[] = {
        {"f32 matrix product", "GFLOP/s", limits.f32_flops_per_s},
        {"bf16 matrix product", "GFLOP/s", limits.bf16_flops_per_s},
        {"int8 matrix product", "GOP/s", limits.i8_ops_per_s},
        {"memory", "GB/s", limits.bytes_per_s},
    };
    printf("limits of this machine, %d threads, measured in %.1f s\n", limits.n_threads, took);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value > 0)
            printf("  %-20s %10.1f %s\n", rows[i].name, rows[i].value / 1e9, rows[i].unit);
        else
            printf("  %-20s %10s\n", rows[i].name, "none");
    return 0;
}
