/* Twenty steps of every optimizer, with clipping and a loss scale, against other implementations in
 * double precision (tests/data/optim/README.md). */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "deepseek/optim.h"
#include "deepseek/safetensors.h"

enum { STEPS = 20, N_PARAMS = 4, MOST = 64 };
static const float CLIP = 1, LOSS_SCALE = 1024, DECAY = 0.1f;

static const char *const names[N_PARAMS] = {"blocks.0.weight", "blocks.1.weight", "wte.weight",
                                            "blocks.0.bias"};

static const ds_safetensor *golden(const ds_safetensors *file, const char *group,
                                   const char *name) {
    char full[96];
    const ds_safetensor *t = NULL;
    snprintf(full, sizeof full, "%s/%s", group, name);
    if (ds_safetensors_find(file, full, &t) != DS_OK)
        fail_msg("%s", ds_error());
    assert_int_equal(t->dtype, DS_F32);
    return t;
}

static const float *golden_values(const ds_safetensors *file, const char *group, const char *name) {
    return golden(file, group, name)->data;
}

/* AdamW's betas are those of the golden run; the others' are the defaults. */
static ds_optimizer_opts opts_of(ds_optimizer_kind kind) {
    ds_optimizer_opts opts = ds_optimizer_defaults(kind);
    opts.weight_decay = DECAY;
    if (kind == DS_OPTIMIZER_ADAMW)
        opts.beta2 = 0.95f;
    return opts;
}

static void add_params(ds_graph *g, const ds_safetensors *file, ds_optimizer_opts opts) {
    ds_node *params[N_PARAMS];
    for (int i = 0; i < N_PARAMS; i++) {
        const ds_safetensor *t = golden(file, "initial", names[i]);
        params[i] = ds_graph_param(g, names[i], t->rank, t->dims,
                                   (ds_init){.no_decay = strstr(names[i], "bias") != NULL});
    }
    ds_optimizer_build(g, params, N_PARAMS, opts);
}

static void write_scalar(ds_program *p, const char *name, float value) {
    assert_int_equal(ds_program_write(p, name, &value, sizeof value), DS_OK);
}

static void write_gradients(ds_state *s, const ds_safetensors *file, int step) {
    for (int i = 0; i < N_PARAMS; i++) {
        const ds_safetensor *all = golden(file, "gradients", names[i]);
        const size_t count = all->size_bytes / sizeof(float) / STEPS;
        const float *from = (const float *)all->data + (size_t)step * count;
        float scaled[MOST];
        char name[96];
        for (size_t k = 0; k < count; k++)
            scaled[k] = LOSS_SCALE * from[k];
        ds_gradient_name(names[i], name, sizeof name);
        assert_int_equal(ds_state_write(s, name, scaled, count * sizeof *scaled), DS_OK);
    }
}

/* The largest difference of any element to the golden path after this step. */
static double distance(const ds_state *s, const ds_safetensors *file, const char *kind, int step) {
    double most = 0;
    for (int i = 0; i < N_PARAMS; i++) {
        const ds_safetensor *all = golden(file, kind, names[i]);
        const size_t count = all->size_bytes / sizeof(float) / STEPS;
        const float *expected = (const float *)all->data + (size_t)step * count;
        float p[MOST];
        assert_int_equal(ds_state_read(s, names[i], p, count * sizeof *p), DS_OK);
        for (size_t k = 0; k < count; k++)
            most = fmax(most, isfinite(p[k]) ? fabs((double)p[k] - (double)expected[k]) : INFINITY);
    }
    return most;
}

static void follow(const ds_safetensors *file, const char *backend_name, ds_optimizer_kind kind) {
    ds_backend *backend;
    ds_state *s;
    ds_program *p;
    ds_graph *g = ds_graph_new();
    assert_int_equal(ds_backend_open(backend_name, (ds_backend_opts){2}, &backend), DS_OK);
    assert_int_equal(ds_state_new(backend, &s), DS_OK);
    add_params(g, file, opts_of(kind));
    if (ds_compile(g, s, (ds_compile_opts){0}, &p) != DS_OK)
        fail_msg("%s", ds_error());
    assert_int_equal(ds_state_init(s, 1), DS_OK);
    for (int i = 0; i < N_PARAMS; i++) {
        const ds_safetensor *t = golden(file, "initial", names[i]);
        assert_int_equal(ds_state_write(s, names[i], t->data, t->size_bytes), DS_OK);
    }
    const char *name = ds_optimizer_name(kind);
    const float *rates = golden_values(file, "rate", name);
    const ds_safetensor *norms = NULL;
    assert_int_equal(ds_safetensors_find(file, "norm", &norms), DS_OK);
    for (int step = 0; step < STEPS; step++) {
        float norm = NAN;
        write_gradients(s, file, step);
        write_scalar(p, "lr", rates[step]);
        write_scalar(p, "grad_scale", 1 / LOSS_SCALE);
        write_scalar(p, "grad_clip", CLIP);
        write_scalar(p, "step", (float)(step + 1));
        assert_int_equal(ds_program_run(p), DS_OK);
        assert_int_equal(ds_program_read(p, "grad_norm", &norm, sizeof norm), DS_OK);
        assert_float_equal(norm, ((const float *)norms->data)[step], 1e-5f);
        const double off = distance(s, file, name, step);
        if (!(off < 2e-6)) /* parameters are near 1, the whole way is 0.06 … 2 */
            fail_msg("%s on %s, step %d: %g off", name, backend_name, step + 1, off);
    }
    ds_program_free(p);
    ds_graph_free(g);
    ds_state_free(s);
    ds_backend_close(backend);
}

static void test_twenty_steps(void **state) {
    (void)state;
    static const char *const backends[] = {"ref", "cpu"};
    ds_safetensors *file;
    if (ds_safetensors_open(DS_TEST_DATA "/optim/optimizers.safetensors", &file) != DS_OK)
        fail_msg("%s", ds_error());
    for (int b = 0; b < 2; b++)
        for (int kind = 0; kind < DS_OPTIMIZER_KINDS; kind++)
            follow(file, backends[b], (ds_optimizer_kind)kind);
    ds_safetensors_close(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_twenty_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
