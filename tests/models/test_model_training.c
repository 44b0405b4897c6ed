/* Twenty training steps of a whole model against transformers and PyTorch: forward, backward,
 * clipping by the global norm and AdamW together (tests/goldens/README.md). */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepseek/models.h"
#include "deepseek/optim.h"
#include "deepseek/safetensors.h"
#include "support/small_model.h"

#define FOLDER DS_TEST_DATA "/goldens/qwen3"
static const float CLIP = 2.75f, DECAY = 0.1f;
static const double TOLERANCE = 2e-5; /* · (1 + |value|): rounding, twenty steps long */

typedef struct training {
    ds_safetensors *golden;
    ds_backend *backend;
    ds_state *state;
    ds_program *gradients, *update;
    int64_t steps, batch, n_tokens;
} training;

static const ds_safetensor *golden(const training *t, const char *name) {
    const ds_safetensor *found = NULL;
    require_ok(ds_safetensors_find(t->golden, name, &found));
    return found;
}

static float golden_at(const training *t, const char *name, int64_t step) {
    return ((const float *)golden(t, name)->data)[step];
}

static void compare(const char *name, int64_t i, float got, float want) {
    if (!(fabs((double)got - (double)want) <= TOLERANCE * (1 + fabs((double)want))))
        fail_msg("%s[%lld] is %.9g, PyTorch gives %.9g", name, (long long)i, (double)got,
                 (double)want);
}

static void open_training(training *t, const char *backend) {
    ds_model_config config;
    require_ok(ds_safetensors_open(FOLDER "/training.safetensors", &t->golden));
    require_ok(ds_model_config_load(FOLDER, &config));
    require_ok(ds_backend_open(backend, (ds_backend_opts){2}, &t->backend));
    require_ok(ds_state_new(t->backend, &t->state));
    const ds_safetensor *tokens = golden(t, "tokens");
    t->steps = tokens->dims[0];
    t->batch = tokens->dims[1];
    t->n_tokens = tokens->dims[2];
    ds_graph *g = ds_graph_new(), *update = NULL;
    ds_model_build_training(g, &config, t->batch, t->n_tokens);
    require_ok(ds_compile(g, t->state, (ds_compile_opts){.loss = "loss"}, &t->gradients));
    ds_optimizer_opts opts = ds_optimizer_defaults(DS_OPTIMIZER_ADAMW);
    opts.beta2 = 0.95f;
    opts.weight_decay = DECAY;
    require_ok(ds_optimizer_graph(t->state, opts, &update));
    require_ok(ds_compile(update, t->state, (ds_compile_opts){0}, &t->update));
    require_ok(ds_state_init(t->state, 1)); /* no moments yet */
    require_ok(ds_model_load(FOLDER, &config, t->state));
    ds_graph_free(update);
    ds_graph_free(g);
}

static void close_training(training *t) {
    ds_program_free(t->update);
    ds_program_free(t->gradients);
    ds_state_free(t->state);
    ds_backend_close(t->backend);
    ds_safetensors_close(t->golden);
}

static void write_scalar(ds_program *p, const char *name, float value) {
    require_ok(ds_program_write(p, name, &value, sizeof value));
}

/* The step's part of the golden's ids of all steps; returns it. */
static const int32_t *write_ids(const training *t, const char *name, int64_t step) {
    const int64_t count = t->batch * t->n_tokens;
    const int32_t *ids = (const int32_t *)golden(t, name)->data + step * count;
    require_ok(ds_program_write(t->gradients, name, ids, (size_t)count * sizeof *ids));
    return ids;
}

/* The loss before the step, a mean over predicted tokens. */
static float compute_gradients(const training *t, int64_t step) {
    float n = 0, loss = NAN;
    write_ids(t, "tokens", step);
    const int32_t *labels = write_ids(t, "labels", step);
    for (int64_t i = 0; i < t->batch * t->n_tokens; i++)
        n += labels[i] != -100 ? 1 : 0;
    write_scalar(t->gradients, DS_LOSS_SEED, 1 / n);
    require_ok(ds_program_run(t->gradients));
    require_ok(ds_program_read(t->gradients, "loss", &loss, sizeof loss));
    return loss / n;
}

/* The norm of all gradients before clipping. */
static float update(const training *t, int64_t step) {
    float norm = NAN;
    write_scalar(t->update, "lr", golden_at(t, "rate", step));
    write_scalar(t->update, "grad_scale", 1);
    write_scalar(t->update, "grad_clip", CLIP);
    write_scalar(t->update, "step", (float)(step + 1));
    require_ok(ds_program_run(t->update));
    require_ok(ds_program_read(t->update, "grad_norm", &norm, sizeof norm));
    return norm;
}

static void compare_weights(const training *t) {
    static const char prefix[] = "final/";
    int compared = 0;
    for (size_t i = 0; i < ds_safetensors_count(t->golden); i++) {
        const ds_safetensor *want = ds_safetensors_at(t->golden, i);
        if (strncmp(want->name, prefix, strlen(prefix)) != 0)
            continue;
        float *got = malloc(want->size_bytes);
        require_ok(ds_state_read(t->state, want->name + strlen(prefix), got, want->size_bytes));
        for (size_t k = 0; k < want->size_bytes / sizeof *got; k++)
            compare(want->name, (int64_t)k, got[k], ((const float *)want->data)[k]);
        free(got);
        compared++;
    }
    assert_int_equal(compared, 25);
}

static void check(const char *backend) {
    training t = {0};
    open_training(&t, backend);
    for (int64_t step = 0; step < t.steps; step++) {
        compare("loss", step, compute_gradients(&t, step), golden_at(&t, "loss", step));
        compare("norm", step, update(&t, step), golden_at(&t, "norm", step));
    }
    compare_weights(&t);
    close_training(&t);
}

static void test_the_reference_backend(void **state) {
    (void)state;
    check("ref");
}

static void test_the_cpu_backend(void **state) {
    (void)state;
    check("cpu");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_reference_backend),
        cmocka_unit_test(test_the_cpu_backend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
