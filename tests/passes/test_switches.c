/* No switch of memory or kernels changes what is learnt: every gradient of a small model of each
 * family, with recomputation, offload and accumulation, fused and not, against the plain program.
 * What only moves or repeats the same kernels must give the same bits. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "deepseek/compile.h"
#include "deepseek/models.h"

enum { BATCH = 4, SEQ_LEN = 64, VOCAB = 96 };

/* Two layers, wide enough that activations are worth sending away. */
static ds_model_config small(ds_architecture architecture) {
    ds_model_config c = {.architecture = architecture,
                         .vocab_size = VOCAB,
                         .n_layers = 2,
                         .hidden_size = 128,
                         .n_heads = 4,
                         .n_kv_heads = architecture == DS_LLAMA || architecture == DS_MOE ? 2 : 4,
                         .head_dim = 32,
                         .intermediate_size = 256,
                         .max_seq_len = SEQ_LEN,
                         .norm_eps = 1e-5f,
                         .rope_theta = 10000,
                         .tie_embeddings = architecture != DS_LLAMA,
                         .dropout = 0.1f};
    if (architecture == DS_MOE) {
        c.n_experts = 4;
        c.experts_per_token = 2;
        c.router_loss_weight = 0.01f;
    }
    if (architecture == DS_BERT)
        c.type_vocab_size = 2;
    return c;
}

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

static void write_ids(ds_program *p, const char *name, size_t n, uint32_t below) {
    int32_t ids[BATCH * SEQ_LEN];
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(ds_philox(below, i, n).word[0] % below);
    require(ds_program_write(p, name, ids, n * sizeof *ids));
}

static void write_inputs(ds_program *p, const ds_model_config *c) {
    const float seed = 1.0f / (BATCH * SEQ_LEN);
    const int32_t lengths[BATCH] = {SEQ_LEN, SEQ_LEN - 11, 1, SEQ_LEN};
    write_ids(p, "tokens", (size_t)(BATCH * SEQ_LEN), VOCAB);
    write_ids(p, "labels", (size_t)(BATCH * SEQ_LEN), VOCAB - 1);
    require(ds_program_write(p, DS_LOSS_SEED, &seed, sizeof seed));
    require(ds_program_seed(p, 7, 0));
    if (c->architecture != DS_BERT)
        return;
    write_ids(p, "segment_ids", (size_t)(BATCH * SEQ_LEN), 2);
    write_ids(p, "next_sentence", BATCH, 2);
    require(ds_program_write(p, DS_TOKENS_PER_SAMPLE, &(float){SEQ_LEN}, sizeof(float)));
    require(ds_program_write(p, "lengths", lengths, sizeof lengths));
}

/* Loss, then every gradient, one after the other. */
typedef struct outcome {
    float *values;
    size_t n;
    ds_memory_report memory;
} outcome;

static size_t count(const ds_state_entry *e) {
    size_t n = 1;
    for (int d = 0; d < e->rank; d++)
        n *= (size_t)e->dims[d];
    return n;
}

static void read_outcome(ds_program *p, ds_state *state, outcome *out) {
    out->n = 1;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1) {
            out->values = malloc(out->n * sizeof *out->values);
            assert_non_null(out->values);
            require(ds_program_read(p, "loss", out->values, sizeof(float)));
            out->n = 1;
        }
        for (size_t i = 0; i < ds_state_count(state); i++) {
            const ds_state_entry *e = ds_state_get(state, i);
            if (strncmp(e->name, DS_GRADIENT_PREFIX, strlen(DS_GRADIENT_PREFIX)) != 0)
                continue;
            if (pass == 1)
                require(
                    ds_state_read(state, e->name, out->values + out->n, count(e) * sizeof(float)));
            out->n += count(e);
        }
    }
    out->memory = *ds_program_memory(p);
}

/* One micro-batch; with opts.accumulate a second one on top of it. */
static outcome run(const char *device, const ds_model_config *c, ds_compile_opts opts) {
    ds_backend *backend = NULL;
    ds_state *state = NULL;
    ds_program *first = NULL, *more = NULL;
    ds_graph *g = ds_graph_new();
    outcome out = {0};
    const bool accumulate = opts.accumulate;
    require(ds_backend_open(device, (ds_backend_opts){2}, &backend));
    require(ds_state_new(backend, &state));
    ds_model_build_training(g, c, BATCH, SEQ_LEN);
    opts.loss = "loss";
    opts.accumulate = false;
    require(ds_compile(g, state, opts, &first));
    require(ds_state_init(state, 3));
    write_inputs(first, c);
    require(ds_program_run(first));
    if (accumulate) {
        opts.accumulate = true;
        opts.share = first;
        require(ds_compile(g, state, opts, &more));
        write_inputs(more, c);
        require(ds_program_run(more));
    }
    read_outcome(more ? more : first, state, &out);
    ds_program_free(more);
    ds_program_free(first);
    ds_graph_free(g);
    ds_state_free(state);
    ds_backend_close(backend);
    return out;
}

static void describe(char *out, size_t size, const char *device, ds_compile_opts o) {
    snprintf(out, size, "%s, precision %d, recompute %d, offload %d%s%s%s", device, o.precision,
             o.recompute, o.offload, o.accumulate ? ", accumulated" : "",
             o.no_fuse ? ", not fused" : "", o.no_fused_attention ? ", scores in memory" : "");
}

static void expect_same_bits(const outcome *plain, const outcome *got, const char *what) {
    assert_int_equal(got->n, plain->n);
    for (size_t i = 0; i < plain->n; i++)
        if (memcmp(&got->values[i], &plain->values[i], sizeof(float)) != 0)
            fail_msg("%s: value %zu is %.9g, in the plain program %.9g", what, i,
                     (double)got->values[i], (double)plain->values[i]);
}

/* The distance of the gradients as a whole, relative to their length. */
static void expect_near(const outcome *plain, const outcome *got, double tolerance,
                        const char *what) {
    double distance = 0, length = 0;
    assert_int_equal(got->n, plain->n);
    for (size_t i = 1; i < plain->n; i++) {
        const double d = (double)got->values[i] - (double)plain->values[i];
        distance += d * d;
        length += (double)plain->values[i] * (double)plain->values[i];
    }
    assert_true(length > 0);
    if (!(sqrt(distance) <= tolerance * sqrt(length)))
        fail_msg("%s: gradients are %g of their length away from the plain program's", what,
                 sqrt(distance / length));
    const double loss = (double)plain->values[0];
    if (!(fabs((double)got->values[0] - loss) <= tolerance * fabs(loss)))
        fail_msg("%s: loss %g, in the plain program %g", what, (double)got->values[0], loss);
}

/* Every way to save memory under otherwise equal options: bit for bit. */
static void check_memory_switches(const char *device, const ds_model_config *c,
                                  ds_compile_opts opts, const outcome *plain) {
    for (int recompute = 0; recompute < 3; recompute++)
        for (int offload = 0; offload < 3; offload++) {
            char what[160];
            opts.recompute = (ds_recompute)recompute;
            opts.offload = (ds_offload)offload;
            if ((recompute == 0 && offload == 0) || (recompute > 0 && offload == DS_OFFLOAD_FILE))
                continue; /* itself; a file differs from memory by its address alone */
            outcome got = run(device, c, opts);
            describe(what, sizeof what, device, opts);
            expect_same_bits(plain, &got, what);
            /* what selective recomputation drops is made again without it, too, where that is free
             */
            const size_t slack = recompute == DS_RECOMPUTE_SELECTIVE && offload == DS_OFFLOAD_NONE
                                     ? plain->memory.working / 10
                                     : 0;
            if (got.memory.working >= plain->memory.working + slack)
                fail_msg("%s: %zu bytes of working memory, %zu without", what, got.memory.working,
                         plain->memory.working);
            assert_true((got.memory.host > 0) == (offload != DS_OFFLOAD_NONE));
            free(got.values);
        }
}

static void expect_twice(const outcome *once, const outcome *twice, const char *what) {
    outcome sum = {.values = malloc(once->n * sizeof(float)), .n = once->n};
    assert_non_null(sum.values);
    sum.values[0] = once->values[0]; /* the loss is not accumulated */
    for (size_t i = 1; i < once->n; i++)
        sum.values[i] = 2 * once->values[i];
    expect_near(&sum, twice, 1e-6, what);
    free(sum.values);
}

enum { UNFUSED = 1, SCORES = 2 }; /* variants of kernels, by bits */

static void check_family(ds_architecture architecture, const char *device, ds_precision precision,
                         double tolerance) {
    const ds_model_config c = small(architecture);
    outcome reference = run(device, &c, (ds_compile_opts){.precision = precision, .no_fuse = true});
    for (int variant = 0; variant < 4; variant++) {
        char what[160];
        ds_compile_opts opts = {.precision = precision,
                                .no_fuse = (variant & UNFUSED) != 0,
                                .no_fused_attention = (variant & SCORES) != 0};
        outcome plain = run(device, &c, opts);
        describe(what, sizeof what, device, opts);
        expect_near(&reference, &plain, tolerance, what);
        check_memory_switches(device, &c, opts, &plain);
        opts.accumulate = true;
        outcome twice = run(device, &c, opts);
        describe(what, sizeof what, device, opts);
        expect_twice(&plain, &twice, what);
        if (variant == 0)
            check_memory_switches(device, &c, opts, &twice);
        free(twice.values);
        free(plain.values);
    }
    free(reference.values);
}

static void test_gpt2(void **state) {
    (void)state;
    check_family(DS_GPT2, "cpu", DS_PRECISION_FULL, 1e-5);
    check_family(DS_GPT2, "cpu", DS_PRECISION_BF16, 2e-2);
}

static void test_llama(void **state) {
    (void)state;
    check_family(DS_LLAMA, "cpu", DS_PRECISION_FULL, 1e-5);
    check_family(DS_LLAMA, "cpu", DS_PRECISION_BF16, 2e-2);
}

static void test_bert(void **state) {
    (void)state;
    check_family(DS_BERT, "cpu", DS_PRECISION_FULL, 1e-5);
}

static void test_experts(void **state) {
    (void)state;
    check_family(DS_MOE, "cpu", DS_PRECISION_FULL, 1e-5);
}

/* The oracle is slow: the extremes only. */
static void test_reference_backend(void **state) {
    (void)state;
    const ds_model_config c = small(DS_GPT2);
    const ds_compile_opts least = {.recompute = DS_RECOMPUTE_FULL, .offload = DS_OFFLOAD_HOST};
    outcome plain = run("ref", &c, (ds_compile_opts){.no_fuse = true});
    outcome fused = run("ref", &c, (ds_compile_opts){0});
    outcome saving = run("ref", &c, least);
    outcome written_out = run("ref", &c, (ds_compile_opts){.no_fused_attention = true});
    expect_near(&plain, &fused, 1e-5, "ref, fused");
    expect_same_bits(&fused, &saving, "ref, full recompute and offload");
    expect_near(&plain, &written_out, 1e-5, "ref, scores in memory");
    free(plain.values);
    free(fused.values);
    free(saving.values);
    free(written_out.values);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_bert),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_reference_backend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
