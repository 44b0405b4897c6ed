#include "support/small_model.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "infer/weights.h"

void require_ok(ds_status status) {
    if (status != DS_OK)
        fail_msg("%s", ds_error());
}

ds_model *small_model_open(const char *family, int64_t longest, int64_t window) {
    char folder[] = "/tmp/ds-small-model-XXXXXX", path[PATH_MAX], weights[PATH_MAX];
    ds_model *m = NULL;
    json_error_t error;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/goldens/%s/config.json", DS_TEST_DATA, family);
    json_t *config = json_load_file(path, 0, &error);
    assert_non_null(config);
    if (longest > 0)
        json_object_set_new(config, "max_position_embeddings", json_integer(longest));
    if (window > 0)
        json_object_set_new(config, "sliding_window", json_integer(window));
    snprintf(path, sizeof path, "%s/config.json", folder);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    snprintf(weights, sizeof weights, "%s/goldens/%s/model.safetensors", DS_TEST_DATA, family);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(symlink(weights, path), 0);
    require_ok(ds_model_from_pretrained(folder, (ds_model_opts){.n_threads = 2}, &m));
    require_ok(ds_folder_remove(folder));
    return m;
}

static bool is_stop(const ds_request *q, int32_t token) {
    for (size_t i = 0; i < q->n_stop_tokens; i++)
        if (q->stop_tokens[i] == token)
            return true;
    return false;
}

static ds_finish draw_alone(ds_generator *g, const ds_request *q, int64_t vocab, int32_t *text,
                            lone_answer *out) {
    float *logits = malloc((size_t)vocab * sizeof *logits);
    assert_non_null(logits);
    const float *own = ds_generator_logits(g);
    memcpy(logits, own, (size_t)vocab * sizeof *logits);
    ds_sampling_penalise(logits, vocab, &q->sampling, q->prompt, q->n_prompt, out->tokens,
                         out->n_tokens);
    if (q->on_logits)
        q->on_logits(logits, vocab, out->tokens, out->n_tokens, q->context);
    const int32_t token = ds_sample(logits, vocab, q->sampling, q->n_prompt + out->n_tokens);
    free(logits);
    if (is_stop(q, token))
        return DS_FINISH_STOP;
    out->logprobs[out->n_tokens] = (float)((double)own[token] - ds_log_sum_exp(own, vocab));
    out->tokens[out->n_tokens++] = token;
    *text = token;
    return DS_FINISH_NONE;
}

void answer_alone(ds_model *m, const ds_request *q, int64_t longest, lone_answer *out) {
    ds_generator *g = NULL;
    const ds_model_config *c = ds_model_get_config(m);
    const int64_t most = q->max_tokens > 0 && q->max_tokens < longest - q->n_prompt
                             ? q->max_tokens
                             : longest - q->n_prompt;
    out->n_tokens = 0;
    require_ok(ds_generator_new(ds_model_get_state(m), c, longest, DS_PRECISION_FULL, &g));
    require_ok(ds_generator_feed(g, q->prompt, q->n_prompt));
    int32_t token = -1;
    for (;;) {
        out->finish = draw_alone(g, q, c->vocab_size, &token, out);
        if (out->finish == DS_FINISH_NONE && out->n_tokens == most)
            out->finish = DS_FINISH_LENGTH;
        if (out->finish != DS_FINISH_NONE)
            break;
        require_ok(ds_generator_feed(g, &token, 1));
    }
    ds_generator_free(g);
}
