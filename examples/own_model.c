/* A model of your own: a small network that learns to tell two interleaved spirals apart.
 *
 * Four steps, as always: build a graph, compile it, run it, read the results. The update is a graph
 * as well: here one AdamW update for all parameters, made by ds_optimizer_graph. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <deepseek/compile.h>
#include <deepseek/nn.h>
#include <deepseek/optim.h>

enum { POINTS = 200, WIDTH = 64, STEPS = 400 };

static void must(ds_status status) {
    if (status != DS_OK) {
        fprintf(stderr, "%s\n", ds_error());
        exit(1);
    }
}

static void make_spirals(float points[POINTS][2], int32_t labels[POINTS]) {
    for (int i = 0; i < POINTS; i++) {
        const float turn = 0.5f + 6.0f * (float)(i / 2) / (POINTS / 2), side = i % 2 ? 1 : -1;
        points[i][0] = side * turn * cosf(turn) / 4;
        points[i][1] = side * turn * sinf(turn) / 4;
        labels[i] = i % 2;
    }
}

/* The model: points [POINTS, 2] → two classes. */
static ds_graph *build(void) {
    ds_graph *g = ds_graph_new();
    ds_node *x = ds_graph_input(g, "points", DS_F32, 2, (int64_t[]){POINTS, 2});
    ds_node *labels = ds_graph_input(g, "labels", DS_I32, 1, (int64_t[]){POINTS});
    const ds_init init = DS_INIT_NORMAL(0.5f);
    ds_node *h = ds_graph_unary(g, DS_TANH, ds_nn_linear(g, "first", x, WIDTH, true, init), 0);
    h = ds_graph_unary(g, DS_TANH,
                       ds_nn_linear(g, "second", h, WIDTH, true, DS_INIT_NORMAL(0.125f)), 0);
    ds_node *logits = ds_nn_linear(g, "last", h, 2, true, DS_INIT_NORMAL(0.125f));
    ds_graph_output(g, "loss", ds_graph_cross_entropy(g, logits, labels));
    ds_graph_output(g, "guess", ds_graph_argmax(g, logits));
    return g;
}

int main(void) {
    ds_backend *cpu = NULL;
    ds_state *state = NULL;
    ds_program *train = NULL, *update = NULL;
    ds_graph *optimizer = NULL, *model = build();
    must(ds_backend_open("cpu", (ds_backend_opts){0}, &cpu));
    must(ds_state_new(cpu, &state));
    must(ds_compile(model, state, (ds_compile_opts){.loss = "loss"}, &train));
    must(ds_optimizer_graph(state, ds_optimizer_defaults(DS_OPTIMIZER_ADAMW), &optimizer));
    must(ds_compile(optimizer, state, (ds_compile_opts){0}, &update));
    must(ds_state_init(state, 1));

    float points[POINTS][2];
    int32_t labels[POINTS], guess[POINTS];
    make_spirals(points, labels);
    must(ds_program_write(train, "points", points, sizeof points));
    must(ds_program_write(train, "labels", labels, sizeof labels));
    const float seed = 1.0f / POINTS, rate = 0.01f, one = 1, clip = 1;
    must(ds_program_write(train, DS_LOSS_SEED, &seed, sizeof seed)); /* the mean over points */
    must(ds_program_write(update, "lr", &rate, sizeof rate));
    must(ds_program_write(update, "grad_scale", &one, sizeof one));
    must(ds_program_write(update, "grad_clip", &clip, sizeof clip));
    for (int i = 1; i <= STEPS; i++) {
        const float step = (float)i;
        float loss = 0;
        must(ds_program_run(train));
        must(ds_program_write(update, "step", &step, sizeof step));
        must(ds_program_run(update));
        must(ds_program_read(train, "loss", &loss, sizeof loss));
        if (i == 1 || i % 100 == 0)
            printf("step %3d  loss %.4f\n", i, (double)loss / POINTS);
    }
    must(ds_program_run(train));
    must(ds_program_read(train, "guess", guess, sizeof guess));
    int right = 0;
    for (int i = 0; i < POINTS; i++)
        right += guess[i] == labels[i];
    printf("%d of %d points right\n", right, POINTS);

    ds_program_free(update);
    ds_program_free(train);
    ds_graph_free(optimizer);
    ds_graph_free(model);
    ds_state_free(state);
    ds_backend_close(cpu);
    return right > POINTS * 95 / 100 ? 0 : 1;
}
