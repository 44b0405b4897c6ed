/* How well a model predicts a text: the loss of each token given those before it in its window. */
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"
#include "deepseek/inference.h"
#include "graph/ops/ops.h"

enum { DEFAULT_WINDOW = 512 };

/* Inputs tokens and labels [1, window]; outputs the summed loss, and the likeliest next token after
 * each. */
static ds_status make_program(ds_model *model, int64_t window, ds_precision precision,
                              ds_program **out) {
    ds_graph *g = ds_graph_new();
    if (!g)
        return DS_OUT_OF_MEMORY;
    ds_model_build_logits(g, ds_model_get_config(model), 1, window);
    if (ds_graph_ok(g)) {
        ds_node *logits = g->outputs[0].node;
        g->n_outputs = 0; /* the logits themselves stay inside */
        ds_node *labels = ds_graph_input(g, "labels", DS_I32, 2, (int64_t[]){1, window});
        ds_graph_output(g, "loss", ds_graph_cross_entropy(g, logits, labels));
        ds_graph_output(g, "likeliest", ds_graph_argmax(g, logits));
    }
    const ds_status status =
        ds_compile(g, ds_model_get_state(model), (ds_compile_opts){.precision = precision}, out);
    ds_graph_free(g);
    return status;
}

/* One window: its first token is only given, each other one predicted. labels: room for window. */
static ds_status score_window(ds_program *p, const int32_t *tokens, int64_t window, int32_t *labels,
                              int32_t *likeliest, ds_text_score *score) {
    const size_t size = (size_t)window * sizeof *tokens;
    float loss = 0;
    for (int64_t i = 0; i + 1 < window; i++)
        labels[i] = tokens[i + 1];
    labels[window - 1] = DS_IGNORED_LABEL;
    DS_TRY(ds_program_write(p, "tokens", tokens, size));
    DS_TRY(ds_program_write(p, "labels", labels, size));
    DS_TRY(ds_program_run(p));
    DS_TRY(ds_program_read(p, "loss", &loss, sizeof loss));
    score->loss += (double)loss;
    score->n_predicted += window - 1;
    return likeliest ? ds_program_read(p, "likeliest", likeliest, size) : DS_OK;
}

static ds_status check(ds_model *model, const int32_t *tokens, int64_t n, int64_t window) {
    const ds_model_config *c = ds_model_get_config(model);
    if (window < 2 || window > c->max_seq_len)
        return ds_fail(DS_INVALID,
                       "a window of %lld tokens is not in 2 … %lld, the model's longest",
                       (long long)window, (long long)c->max_seq_len);
    if (n < window)
        return ds_fail(DS_INVALID, "the text has %lld tokens, less than one window of %lld",
                       (long long)n, (long long)window);
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= c->vocab_size)
            return ds_fail(DS_INVALID, "token %d is not in 0 … %lld", tokens[i],
                           (long long)c->vocab_size - 1);
    return DS_OK;
}

ds_status ds_model_score_text(ds_model *model, const int32_t *tokens, int64_t n, ds_score_opts opts,
                              int32_t *likeliest, ds_text_score *out) {
    const int64_t longest = ds_model_get_config(model)->max_seq_len;
    const int64_t usual = longest < DEFAULT_WINDOW ? longest : DEFAULT_WINDOW;
    const int64_t window = opts.window ? opts.window : usual;
    ds_program *program = NULL;
    *out = (ds_text_score){0};
    DS_TRY(check(model, tokens, n, window));
    int32_t *labels = ds_malloc((size_t)window * sizeof *labels);
    if (!labels)
        return DS_OUT_OF_MEMORY;
    ds_status status = make_program(model, window, opts.precision, &program);
    for (int64_t at = 0; status == DS_OK && at + window <= n; at += window) {
        status = score_window(program, tokens + at, window, labels,
                              likeliest ? likeliest + at : NULL, out);
        out->n_scored = at + window;
        if (status == DS_OK && opts.on_window && !opts.on_window(out, opts.context))
            break;
    }
    ds_program_free(program);
    free(labels);
    return status;
}
