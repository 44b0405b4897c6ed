#include "cli/batch.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/text.h"
#include "infer/model.h"
#include "infer/prompt.h"

/* A line of the file and what becomes of it. */
typedef struct item {
    int64_t number;
    char *prompt;
    json_t *id; /* the line's own, or NULL */
    int32_t *ids;
    size_t n;
    int64_t max_tokens;
    ds_sampling sampling;
    uint64_t request;
    bool submitted;
    char error[256];
} item;

typedef struct run {
    const ds_cli_batch *b;
    ds_async_executor *executor;
    const ds_tokenizer *tokenizer;
    ds_prompt_format format;
    FILE *in;
    char *line; /* getline's */
    size_t line_size;
    bool is_json, begun, ended;
    int64_t n_read, n_written, n_failed, n_tokens;
    double start_s, shown_s;
    item *ring; /* [n_ring]: lines n_written … n_read */
    int64_t n_ring;
} run;

/* ---- reading a line -------------------------------------------------------------------------- */

static ds_status copy_prompt(item *it, const char *text, size_t length) {
    if (ds_utf8_valid(text, length) != length || memchr(text, '\0', length))
        return ds_fail(DS_INVALID, "the prompt is not UTF-8 text");
    it->prompt = ds_malloc(length + 1);
    if (!it->prompt)
        return DS_OUT_OF_MEMORY;
    memcpy(it->prompt, text, length);
    it->prompt[length] = '\0';
    return DS_OK;
}

static ds_status read_number(const json_t *value, const char *key, double low, double high,
                             double *out) {
    if (!json_is_number(value) || json_number_value(value) < low || json_number_value(value) > high)
        return ds_fail(DS_INVALID, "%s should be a number from %g to %g", key, low, high);
    *out = json_number_value(value);
    return DS_OK;
}

static ds_status read_whole(const json_t *value, const char *key, int64_t low, int64_t high,
                            int64_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < low ||
        json_integer_value(value) > high)
        return ds_fail(DS_INVALID, "%s should be a whole number from %lld to %lld", key,
                       (long long)low, (long long)high);
    *out = json_integer_value(value);
    return DS_OK;
}

static ds_status read_key(item *it, const char *key, json_t *value) {
    int64_t whole = 0;
    double real = 0;
    for (int i = 0; i < DS_SAMPLING_REALS; i++) {
        const ds_sampling_key *k = &ds_sampling_reals[i];
        if (strcmp(key, k->name) != 0)
            continue;
        DS_TRY(read_number(value, key, k->low, k->high, &real));
        *(float *)(void *)((char *)&it->sampling + k->offset) = (float)real;
        return DS_OK;
    }
    if (strcmp(key, "prompt") == 0)
        return json_is_string(value)
                   ? copy_prompt(it, json_string_value(value), json_string_length(value))
                   : ds_fail(DS_INVALID, "prompt should be a string");
    if (strcmp(key, "max_tokens") == 0)
        return read_whole(value, key, 1, INT32_MAX, &it->max_tokens);
    if (strcmp(key, "top_k") == 0) {
        DS_TRY(read_whole(value, key, 0, INT32_MAX, &whole));
        it->sampling.top_k = (int)whole;
        return DS_OK;
    }
    if (strcmp(key, "seed") == 0) {
        DS_TRY(read_whole(value, key, 0, INT64_MAX, &whole));
        it->sampling.seed = (uint64_t)whole;
        return DS_OK;
    }
    if (strcmp(key, "id") == 0) {
        it->id = json_incref(value);
        return DS_OK;
    }
    return ds_fail(DS_INVALID,
                   "unknown key '%.60s'; there are prompt, id, max_tokens, temperature, top_k, "
                   "top_p, min_p, seed and the penalties (repetition_, presence_, frequency_)",
                   key);
}

static ds_status read_object(item *it, const char *line, size_t length) {
    json_error_t wrong;
    json_t *object = json_loadb(line, length, JSON_REJECT_DUPLICATES, &wrong);
    if (!json_is_object(object)) {
        json_decref(object);
        return ds_fail(DS_INVALID, "this is no JSON object: %s", object ? line : wrong.text);
    }
    const char *key;
    json_t *value;
    ds_status status = DS_OK;
    json_object_foreach(object, key, value) {
        if (status == DS_OK)
            status = read_key(it, key, value);
    }
    json_decref(object);
    if (status == DS_OK && !it->prompt)
        status = ds_fail(DS_INVALID, "the line has no \"prompt\"");
    return status;
}

/* ---- in and out ------------------------------------------------------------------------------ */

static void refuse(item *it) {
    snprintf(it->error, sizeof it->error, "%s", ds_error());
    it->error[ds_utf8_valid(it->error, strlen(it->error))] = '\0';
}

static ds_status submit(run *r, item *it) {
    size_t n_stops = 0;
    const int32_t *stops = ds_model_end_tokens(r->b->model, &n_stops);
    DS_TRY(ds_prompt_encode_text(&r->format, it->prompt, &it->ids, &it->n));
    const ds_request q = {.prompt = it->ids,
                          .n_prompt = (int64_t)it->n,
                          .max_tokens = it->max_tokens,
                          .sampling = it->sampling,
                          .stop_tokens = stops,
                          .n_stop_tokens = n_stops,
                          .grammar = r->b->grammar};
    DS_TRY(ds_async_executor_submit(r->executor, &q, &it->request));
    it->submitted = true;
    return DS_OK;
}

/* The next line, submitted; r->ended at the end of the file. */
static ds_status take_line(run *r) {
    const ssize_t got = getline(&r->line, &r->line_size, r->in);
    if (got < 0) {
        r->ended = true;
        return ferror(r->in) ? ds_fail(DS_IO, "%s: cannot be read", r->b->path) : DS_OK;
    }
    size_t length = (size_t)got;
    while (length > 0 && (r->line[length - 1] == '\n' || r->line[length - 1] == '\r'))
        length--;
    r->line[length] = '\0';
    if (!r->begun)
        r->is_json = *r->line == '{';
    r->begun = true;
    if (r->is_json && strspn(r->line, " \t") == length)
        return DS_OK; /* JSON lines may be parted by empty ones */
    item *it = &r->ring[r->n_read % r->n_ring];
    *it = (item){.number = r->n_read, .max_tokens = r->b->max_tokens, .sampling = r->b->sampling};
    it->sampling.seed += (uint64_t)r->n_read++;
    ds_status status =
        r->is_json ? read_object(it, r->line, length) : copy_prompt(it, r->line, length);
    if (status == DS_OK)
        status = submit(r, it);
    if (status == DS_OUT_OF_MEMORY)
        return status;
    if (status != DS_OK)
        refuse(it);
    return DS_OK;
}

/* What the answer's tokens say behind the prompt's: some tokenizers' text depends on whether it is
 * at the beginning. */
static ds_status write_text(run *r, const item *it, const ds_answer *a, ds_text *out) {
    ds_detokenizer *d = ds_detokenizer_new(r->tokenizer);
    const char *text = NULL;
    size_t length = 0;
    ds_status status = d ? DS_OK : DS_OUT_OF_MEMORY;
    for (size_t i = 0; status == DS_OK && i < it->n; i++)
        status = ds_detokenizer_push(d, it->ids[i], &text, &length);
    for (int64_t i = 0; status == DS_OK && i < a->n_tokens; i++) {
        status = ds_detokenizer_push(d, a->tokens[i], &text, &length);
        if (status == DS_OK)
            ds_text_append(out, text, length);
    }
    if (status == DS_OK)
        status = ds_detokenizer_finish(d, &text, &length);
    if (status == DS_OK)
        ds_text_append(out, text, length);
    ds_detokenizer_free(d);
    return status;
}

static ds_status describe(run *r, item *it, json_t *line) {
    if (!it->submitted)
        return DS_OK;
    ds_answer a;
    ds_text text = {0};
    DS_TRY(ds_async_executor_wait(r->executor, it->request, -1, &a));
    ds_status status = write_text(r, it, &a, &text);
    r->n_tokens += a.n_tokens;
    if (a.finish != DS_FINISH_STOP && a.finish != DS_FINISH_LENGTH)
        snprintf(it->error, sizeof it->error, "%s", *a.error ? a.error : "it was not answered");
    json_object_set_new(line, "text", json_stringn(text.data ? text.data : "", text.length));
    json_object_set_new(line, "finish_reason",
                        json_string(a.finish == DS_FINISH_STOP ? "stop" : "length"));
    json_object_set_new(line, "prompt_tokens", json_integer((json_int_t)it->n));
    json_object_set_new(line, "completion_tokens", json_integer(a.n_tokens));
    free(a.tokens);
    ds_text_clear(&text);
    return status;
}

/* The oldest line that is not written yet. */
static ds_status write_line(run *r) {
    item *it = &r->ring[r->n_written++ % r->n_ring];
    json_t *line = json_pack("{s:I}", "index", (json_int_t)it->number);
    if (it->id)
        json_object_set(line, "id", it->id);
    if (it->prompt)
        json_object_set_new(line, "prompt", json_string(it->prompt));
    ds_status status = describe(r, it, line);
    if (*it->error) {
        r->n_failed++;
        json_object_set_new(line, "error", json_string(it->error));
    }
    if (status == DS_OK && (!line || json_dumpf(line, r->b->out, JSON_COMPACT) != 0 ||
                            fputc('\n', r->b->out) == EOF || fflush(r->b->out) != 0))
        status = ds_fail(DS_IO, "the answers cannot be written");
    json_decref(line);
    json_decref(it->id);
    free(it->prompt);
    free(it->ids);
    *it = (item){0};
    return status;
}

/* ---- all of them ----------------------------------------------------------------------------- */

static void show(run *r, bool last) {
    const double now = ds_clock_s(), elapsed = now - r->start_s;
    if (last ? !r->b->show_summary : !r->b->show_progress || now - r->shown_s < 0.5)
        return;
    ds_executor_stats s;
    ds_async_executor_stats(r->executor, &s);
    r->shown_s = now;
    fprintf(stderr, "%s%s: %lld prompts answered, %lld tokens, %.1f tokens/s",
            r->b->show_progress ? "\r\033[K" : "", r->b->tool, (long long)r->n_written,
            (long long)s.generated_tokens, (double)s.generated_tokens / elapsed);
    if (last && s.prompt_tokens > 0)
        fprintf(stderr, " in %.2f s; %lld prompt tokens, %.0f %% of them in the cache", elapsed,
                (long long)s.prompt_tokens,
                100 * (double)s.cached_tokens / (double)s.prompt_tokens);
    if (last && s.proposed_tokens > 0)
        fprintf(stderr, "; %.0f %% of %lld guesses right",
                100 * (double)s.accepted_tokens / (double)s.proposed_tokens,
                (long long)s.proposed_tokens);
    if (last && r->n_failed > 0)
        fprintf(stderr, "; %lld lines not answered", (long long)r->n_failed);
    if (last || !r->b->show_progress)
        fputc('\n', stderr);
}

static ds_status answer_all(run *r) {
    ds_status status = DS_OK;
    while (status == DS_OK && (!r->ended || r->n_written < r->n_read)) {
        while (status == DS_OK && !r->ended && r->n_read - r->n_written < r->n_ring)
            status = take_line(r);
        if (status == DS_OK && r->n_written < r->n_read)
            status = write_line(r);
        show(r, false);
    }
    show(r, true);
    return status;
}

ds_status ds_cli_batch_run(const ds_cli_batch *b, int64_t *n_failed) {
    run r = {.b = b, .tokenizer = ds_model_get_tokenizer(b->model), .start_s = ds_clock_s()};
    DS_TRY(ds_prompt_format_load(r.tokenizer, b->model->path, &r.format));
    r.n_ring = 4 * (int64_t)(b->executor.max_batch_size > 0 ? b->executor.max_batch_size : 32);
    r.in = strcmp(b->path, "-") == 0 ? stdin : fopen(b->path, "r");
    if (!r.in)
        return ds_fail(DS_IO, "%s: cannot be opened", b->path);
    ds_async_executor_opts opts = b->executor;
    opts.max_queue = (int)r.n_ring;
    r.ring = ds_calloc((size_t)r.n_ring, sizeof *r.ring);
    ds_status status =
        r.ring ? ds_async_executor_new(b->model, opts, &r.executor) : DS_OUT_OF_MEMORY;
    if (status == DS_OK)
        status = answer_all(&r);
    ds_async_executor_free(r.executor);
    for (; r.ring && r.n_written < r.n_read; r.n_written++) { /* after an error */
        item *it = &r.ring[r.n_written % r.n_ring];
        json_decref(it->id);
        free(it->prompt);
        free(it->ids);
    }
    free(r.ring);
    free(r.line);
    if (r.in != stdin)
        fclose(r.in);
    *n_failed = r.n_failed;
    return status;
}
