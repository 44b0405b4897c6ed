/* The machine's limits, which shares of peak are told by. How fast the machine is cannot be tested;
 * that the measurements measure what they say can. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>

#include <cmocka.h>

#include "backend/cpu/limits.h"
#include "backend/cpu/simd/simd.h"
#include "deepseek/compile.h"

/* The chains tend to 1 from wherever they start, so their sum tells how many there were, and that
 * each was computed. */
static void test_multiply_adds_counts_what_it_computes(void **state) {
    (void)state;
    const ds_simd *tables[DS_SIMD_TABLES];
    const int n = ds_simd_all(tables);
    for (int i = 0; i < n; i++) {
        float sum = 0;
        const int rounds = 1000;
        const double flops = tables[i]->multiply_adds(rounds, &sum);
        assert_true(fabs(flops / (2.0 * rounds) - (double)sum) < 1e-2 * (double)sum);
    }
}

/* Processors without bf16 instructions multiply bf16 through f32, at its peak at best. */
static void test_every_training_dtype_has_a_peak(void **state) {
    (void)state;
    ds_backend *cpu = NULL;
    assert_int_equal(ds_backend_open("cpu", (ds_backend_opts){0}, &cpu), DS_OK);
    const double f32 = ds_backend_peak_flops(cpu, DS_F32);
    assert_true(f32 > 0);
    assert_true(ds_backend_peak_flops(cpu, DS_BF16) >= f32);
    assert_true(ds_backend_peak_flops(cpu, DS_F32) == f32); /* kept, not measured anew */
    ds_backend_close(cpu);
}

/* Pages that are only read are one page of zeros in the cache: all must be there. */
static void test_memory_is_measured_in_memory(void **state) {
    (void)state;
    struct rusage before, after;
    double per_s = 0;
    getrusage(RUSAGE_SELF, &before);
    assert_int_equal(ds_cpu_limit(DS_LIMIT_MEMORY, 0, &per_s), DS_OK);
    getrusage(RUSAGE_SELF, &after);
    assert_true(per_s > 0);
    const double grown = (double)(after.ru_maxrss - before.ru_maxrss) * 1024;
    assert_true(grown > 0.9 * (double)ds_cpu_stream_bytes());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(
            test_memory_is_measured_in_memory), /* first: others would hide its pages */
        cmocka_unit_test(test_multiply_adds_counts_what_it_computes),
        cmocka_unit_test(test_every_training_dtype_has_a_peak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
