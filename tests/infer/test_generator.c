/* The generator: prompts in chunks and token by token come to the same, and what it refuses. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "deepseek/inference.h"

enum { CAPACITY = 80 };

typedef struct fixture {
    ds_model_config config;
    ds_backend *backend;
    ds_state *state;
    ds_generator *generator;
} fixture;

static void require(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

static int open_fixture(void **state) {
    fixture *f = calloc(1, sizeof *f);
    require(ds_model_preset("tiny", &f->config));
    f->config.n_layers = 2;
    require(ds_backend_open("cpu", (ds_backend_opts){2}, &f->backend));
    require(ds_state_new(f->backend, &f->state));
    require(ds_generator_new(f->state, &f->config, CAPACITY, DS_PRECISION_FULL, &f->generator));
    require(ds_state_init(f->state, 5));
    *state = f;
    return 0;
}

static int close_fixture(void **state) {
    fixture *f = *state;
    ds_generator_free(f->generator);
    ds_state_free(f->state);
    ds_backend_close(f->backend);
    free(f);
    return 0;
}

static void make_prompt(const fixture *f, int32_t *ids, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)((i * 997 + 13) % f->config.vocab_size);
}

static void test_chunks_come_to_the_same(void **state) {
    fixture *f = *state;
    int32_t ids[CAPACITY];
    const size_t size = (size_t)f->config.vocab_size * sizeof(float);
    float *singly = malloc(size);
    make_prompt(f, ids, CAPACITY);
    static const int64_t lengths[] = {1, 31, 32, 33, 36, 37, 63, 64, 65, 80};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        ds_generator_reset(f->generator);
        for (int64_t t = 0; t < lengths[i]; t++)
            require(ds_generator_feed(f->generator, &ids[t], 1));
        memcpy(singly, ds_generator_logits(f->generator), size);
        ds_generator_reset(f->generator);
        require(ds_generator_feed(f->generator, ids, lengths[i]));
        assert_int_equal(ds_generator_length(f->generator), lengths[i]);
        const float *at_once = ds_generator_logits(f->generator);
        for (int64_t v = 0; v < f->config.vocab_size; v++)
            assert_true(fabsf(at_once[v] - singly[v]) <= 1e-4f * (1 + fabsf(singly[v])));
    }
    free(singly);
}

static void test_drawn_tokens_are_appended(void **state) {
    fixture *f = *state;
    int32_t ids[4], drawn[CAPACITY], id = -1;
    make_prompt(f, ids, 4);
    ds_generator_reset(f->generator);
    require(ds_generator_feed(f->generator, ids, 4));
    for (int i = 0; i < 10; i++)
        require(ds_generator_next(f->generator, (ds_sampling){0}, &drawn[i]));
    assert_int_equal(ds_generator_length(f->generator), 4 + 9); /* the last is still to be fed */
    ds_generator_reset(f->generator);
    require(ds_generator_feed(f->generator, ids, 4));
    require(ds_generator_feed(f->generator, drawn, 9));
    require(ds_generator_next(f->generator, (ds_sampling){0}, &id));
    assert_int_equal(id, drawn[9]);
}

static void test_refusals(void **state) {
    fixture *f = *state;
    int32_t ids[CAPACITY + 1] = {0}, id = -1;
    ds_generator_reset(f->generator);
    assert_null(ds_generator_logits(f->generator));
    assert_int_equal(ds_generator_next(f->generator, (ds_sampling){0}, &id), DS_INVALID);
    assert_int_equal(ds_generator_feed(f->generator, ids, CAPACITY + 1), DS_INVALID);
    ids[3] = (int32_t)f->config.vocab_size;
    assert_int_equal(ds_generator_feed(f->generator, ids, 5), DS_INVALID);
    ids[3] = -1;
    assert_int_equal(ds_generator_feed(f->generator, ids, 5), DS_INVALID);
    assert_int_equal(ds_generator_length(f->generator), 0);
    ids[3] = 0;
    require(ds_generator_feed(f->generator, ids, CAPACITY));
    require(ds_generator_next(f->generator, (ds_sampling){0}, &id)); /* drawn, but no more room */
    assert_int_equal(ds_generator_next(f->generator, (ds_sampling){0}, &id), DS_NOT_FOUND);
}

static void test_damaged_parameters_are_named(void **state) {
    fixture *f = *state;
    const size_t n = (size_t)f->config.hidden_size;
    float *bias = malloc(n * sizeof *bias);
    int32_t id = 1;
    for (size_t i = 0; i < n; i++)
        bias[i] = NAN;
    require(ds_state_write(f->state, "transformer.ln_f.bias", bias, n * sizeof *bias));
    ds_generator_reset(f->generator);
    require(ds_generator_feed(f->generator, &id, 1));
    assert_int_equal(ds_generator_next(f->generator, (ds_sampling){0}, &id), DS_NUMERIC);
    memset(bias, 0, n * sizeof *bias);
    require(ds_state_write(f->state, "transformer.ln_f.bias", bias, n * sizeof *bias));
    free(bias);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks_come_to_the_same),
        cmocka_unit_test(test_drawn_tokens_are_appended),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_damaged_parameters_are_named),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
