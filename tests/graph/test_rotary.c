/* Frequencies of scaled rotary embeddings against transformers' (goldens/rope_frequencies.py), and
 * what is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>

#include "deepseek/graph.h"
#include "graph/ops/ops.h"

static const struct {
    ds_rotary_opts opts;
    double magnitude, frequencies[16];
} cases[] = {
    {{.theta = 10000, .n_dims = 16, .scaling = {.kind = DS_ROPE_LINEAR, .factor = 4}},
     1,
     {0.25, 0.079056941, 0.0250000004, 0.00790569466, 0.00249999994, 0.000790569466, 0.000250000012,
      7.90569466e-05}},
    {{.theta = 500000,
      .n_dims = 32,
      .scaling = {.kind = DS_ROPE_LLAMA3,
                  .factor = 8,
                  .original = 8192,
                  .low_freq_factor = 1,
                  .high_freq_factor = 4}},
     1,
     {1, 0.440366626, 0.193922758, 0.0853971019, 0.0376060307, 0.0165604409, 0.00729266508,
      0.00321144611, 0.000524846022, 7.78465546e-05, 3.42810235e-05, 1.50962178e-05, 6.64786967e-06,
      2.92749974e-06, 1.28917316e-06, 5.6770881e-07}},
    {{.theta = 10000,
      .n_dims = 32,
      .scaling = {.kind = DS_ROPE_YARN,
                  .factor = 40,
                  .original = 4096,
                  .beta_fast = 32,
                  .beta_slow = 1,
                  .magnitude = 1.36888795f}},
     1.36888795,
     {1, 0.562341332, 0.316227764, 0.177827939, 0.100000001, 0.0562341288, 0.0272181761,
      0.0128290169, 0.00582142826, 0.00249036867, 0.000959977158, 0.000292145909, 2.49999994e-05,
      1.40585325e-05, 7.90569447e-06, 4.44569832e-06}},
};

static void frequencies_are_as_published(void **unused) {
    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(fabs(ds_rotary_magnitude(&cases[i].opts) - cases[i].magnitude) < 1e-6);
        for (int64_t k = 0; k < cases[i].opts.n_dims / 2; k++) {
            const double expected = cases[i].frequencies[k];
            const double got = ds_rotary_frequency(&cases[i].opts, k);
            if (!(fabs(got - expected) <= 2e-6 * expected))
                fail_msg("case %zu, pair %lld: %.9g, expected %.9g", i, (long long)k, got,
                         expected);
        }
    }
}

static void bad_scalings_are_refused(void **unused) {
    (void)unused;
    const ds_rope_scaling bad[] = {
        {.kind = DS_ROPE_LINEAR},
        {.kind = DS_ROPE_LLAMA3, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4},
        {.kind = DS_ROPE_LLAMA3,
         .factor = 8,
         .original = 8192,
         .low_freq_factor = 4,
         .high_freq_factor = 4},
        {.kind = DS_ROPE_YARN, .factor = 8, .original = 4096, .beta_fast = 1, .beta_slow = 32},
        {.kind = DS_ROPE_YARN, .factor = NAN, .original = 4096, .beta_fast = 32, .beta_slow = 1},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ds_graph *g = ds_graph_new();
        ds_node *x = ds_graph_input(g, "x", DS_F32, 4, (int64_t[]){1, 3, 2, 8});
        ds_graph_rotary(g, x, ds_graph_iota(g, 3),
                        (ds_rotary_opts){.theta = 10000, .scaling = bad[i]});
        assert_false(ds_graph_ok(g));
        ds_graph_free(g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_are_as_published),
        cmocka_unit_test(bad_scalings_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
