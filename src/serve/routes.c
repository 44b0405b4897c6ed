/* What each address answers. One row of a table an endpoint; every refusal is an error object of
 * OpenAI's API. */
#include <math.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "serve/exchange.h"
#include "serve/page.h"

enum { RETRY_S = 1 };

static const char JSON[] = "application/json";

/* ---- sending --------------------------------------------------------------------------------- */

static enum MHD_Result queue(ds_exchange *x, unsigned code, struct MHD_Response *response,
                             const char *type) {
    if (!response)
        return MHD_NO;
    char retry[16];
    snprintf(retry, sizeof retry, "%d", RETRY_S);
    MHD_add_response_header(response, "Content-Type", type);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (code == 429 || code == 503)
        MHD_add_response_header(response, "Retry-After", retry);
    if (code == 401)
        MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (atomic_load(&x->server->draining))
        MHD_add_response_header(response, "Connection", "close");
    ds_metrics_count_code(&x->server->metrics, code);
    const enum MHD_Result result = MHD_queue_response(x->connection, code, response);
    MHD_destroy_response(response);
    return result;
}

/* text is emptied. */
static enum MHD_Result send_text(ds_exchange *x, unsigned code, const char *type, ds_text *text) {
    const size_t length = text->length;
    char *data = ds_text_take(text);
    if (!data)
        return MHD_NO;
    struct MHD_Response *response =
        MHD_create_response_from_buffer(length, data, MHD_RESPMEM_MUST_FREE);
    if (!response)
        free(data);
    return queue(x, code, response, type);
}

static enum MHD_Result send_error(ds_exchange *x, unsigned code, const char *message,
                                  const char *param) {
    static const struct {
        unsigned code;
        const char *type, *name;
    } kinds[] = {{400, "invalid_request_error", NULL},
                 {401, "authentication_error", "invalid_api_key"},
                 {403, "permission_error", NULL},
                 {404, "invalid_request_error", "not_found"},
                 {405, "invalid_request_error", NULL},
                 {413, "invalid_request_error", "body_too_large"},
                 {429, "rate_limit_error", "queue_full"},
                 {503, "server_error", "shutting_down"},
                 {500, "server_error", NULL}};
    size_t i = 0;
    while (kinds[i].code != code && kinds[i].code != 500)
        i++;
    ds_text text = {0};
    ds_openai_error_write(&text, message, kinds[i].type, param, kinds[i].name);
    return send_text(x, code, JSON, &text);
}

static enum MHD_Result send_json(ds_exchange *x, unsigned code, json_t *value) {
    ds_text text = {0};
    ds_json_write(&text, value);
    return send_text(x, code, JSON, &text);
}

static unsigned code_of(ds_status status) {
    return status == DS_INVALID || status == DS_UNSUPPORTED ? 400 : status == DS_BUSY ? 429 : 500;
}

/* ---- questions about the server -------------------------------------------------------------- */

static enum MHD_Result get_page(ds_exchange *x) {
    struct MHD_Response *response = MHD_create_response_from_buffer(
        ds_serve_page_size, (void *)ds_serve_page, MHD_RESPMEM_PERSISTENT);
    if (response)
        MHD_add_response_header(response, "Content-Security-Policy",
                                "default-src 'none'; style-src 'unsafe-inline'; script-src "
                                "'unsafe-inline'; connect-src 'self'; img-src data:; base-uri "
                                "'none'; form-action 'none'; frame-ancestors 'none'");
    return queue(x, 200, response, "text/html; charset=utf-8");
}

/* Tokens of the longest text. */
static int64_t longest_of(const ds_server *s) {
    return s->executor ? ds_async_executor_longest(s->executor)
                       : ds_model_embedding_length(s->model);
}

static enum MHD_Result get_models(ds_exchange *x) {
    const ds_server *s = x->server;
    return send_json(x, 200,
                     json_pack("{s:s, s:[{s:s, s:s, s:I, s:s, s:I}]}", "object", "list", "data",
                               "id", s->name, "object", "model", "created", (json_int_t)s->created,
                               "owned_by", "deepseek", "max_model_len", (json_int_t)longest_of(s)));
}

/* Of a model without executor nothing runs or waits there. */
static ds_executor_stats executor_stats(const ds_server *s) {
    ds_executor_stats stats = {0};
    if (s->executor)
        ds_async_executor_stats(s->executor, &stats);
    return stats;
}

static ds_executor_stats embedding_stats(const ds_server *s) {
    ds_executor_stats stats;
    ds_embedding_worker_stats(s->embeddings, &stats);
    return stats;
}

/* Of answers and embeddings together. */
static ds_executor_stats sum_of(ds_executor_stats stats, const ds_executor_stats *more) {
    stats.n_running += more->n_running;
    stats.n_waiting += more->n_waiting;
    stats.submitted += more->submitted;
    stats.finished += more->finished;
    stats.cancelled += more->cancelled;
    stats.failed += more->failed;
    stats.prompt_tokens += more->prompt_tokens;
    stats.steps += more->steps;
    return stats;
}

/* Alive unless the model hangs, in answers or in embeddings. */
static enum MHD_Result get_health(ds_exchange *x) {
    const ds_executor_stats answers = executor_stats(x->server);
    const ds_executor_stats embeddings = embedding_stats(x->server);
    const ds_executor_stats all = sum_of(answers, &embeddings);
    const double oldest_s = ds_watch_oldest_s(x->server), now_s = ds_clock_s();
    const bool stalled = ds_metrics_stalled(&answers, oldest_s, now_s) ||
                         ds_metrics_stalled(&embeddings, oldest_s, now_s);
    return send_json(x, stalled ? 503 : 200,
                     json_pack("{s:s, s:I, s:I}", "status", stalled ? "stalled" : "ok", "running",
                               (json_int_t)all.n_running, "waiting", (json_int_t)all.n_waiting));
}

static enum MHD_Result get_ready(ds_exchange *x) {
    const bool draining = atomic_load(&x->server->draining);
    return send_json(x, draining ? 503 : 200,
                     json_pack("{s:s}", "status", draining ? "draining" : "ready"));
}

static enum MHD_Result get_metrics(ds_exchange *x) {
    const ds_executor_stats embeddings = embedding_stats(x->server);
    const ds_executor_stats stats = sum_of(executor_stats(x->server), &embeddings);
    ds_text text = {0};
    ds_metrics_write(&x->server->metrics, &stats, &text);
    return send_text(x, 200, "text/plain; version=0.0.4; charset=utf-8", &text);
}

/* ---- answers --------------------------------------------------------------------------------- */

static void release(void *exchange) {
    ds_exchange_release(exchange);
}

static enum MHD_Result start_stream(ds_exchange *x) {
    atomic_fetch_add(&x->references, 1); /* the response's */
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, ds_exchange_read, x, release);
    if (!response) {
        ds_exchange_release(x);
        return MHD_NO;
    }
    MHD_add_response_header(response, "Cache-Control", "no-cache");
    MHD_add_response_header(response, "X-Accel-Buffering", "no");
    return queue(x, 200, response, "text/event-stream; charset=utf-8");
}

/* Sends a whole answer, or waits for it: MHD asks again when it is woken. */
static enum MHD_Result send_or_wait(ds_exchange *x) {
    enum MHD_Result result = MHD_YES;
    pthread_mutex_lock(&x->lock);
    if (x->broken || (!x->done && atomic_load(&x->server->closing))) {
        result = MHD_NO;
    } else if (x->done) {
        result = send_text(x, x->code, JSON, &x->answer.out);
    } else {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    pthread_mutex_unlock(&x->lock);
    return result;
}

/* Whether the model asked for is the one here, or none is asked for; otherwise the refusal is sent.
 */
static bool is_served(ds_exchange *x, const char *model, enum MHD_Result *sent) {
    char message[600];
    if (!model || strcmp(model, x->server->name) == 0)
        return true;
    snprintf(message, sizeof message, "the model '%.200s' is not served here; '%s' is", model,
             x->server->name);
    message[ds_utf8_valid(message, strlen(message))] = '\0';
    *sent = send_error(x, 404, message, "model");
    return false;
}

/* Reads the body into x->request; otherwise the refusal is sent. */
static bool read_request(ds_exchange *x, ds_openai_kind kind, enum MHD_Result *sent) {
    ds_openai_error error;
    const ds_status status =
        ds_openai_request_parse(kind, &x->server->sampling, x->body.data ? x->body.data : "",
                                x->body.length, &x->request, &error);
    ds_text_clear(&x->body);
    if (status != DS_OK) {
        const bool told = status == DS_INVALID;
        *sent = send_error(x, code_of(status), told ? error.message : ds_error(), error.param);
        return false;
    }
    return is_served(x, x->request.model, sent);
}

static ds_status encode_prompt(const ds_prompt_format *f, const ds_openai_request *r, int32_t **ids,
                               size_t *n) {
    if (r->chat.n_messages > 0)
        return ds_prompt_encode_chat(f, &r->chat, ids, n);
    if (r->prompt)
        return ds_prompt_encode_text(f, r->prompt, ids, n);
    *ids = ds_malloc((r->n_tokens + 1) * sizeof **ids);
    if (!*ids)
        return DS_OUT_OF_MEMORY;
    memcpy(*ids, r->tokens, r->n_tokens * sizeof **ids);
    *n = r->n_tokens;
    return DS_OK;
}

/* What the executor would refuse must not reach the tokenizer as ids. */
static ds_status check_tokens(const ds_exchange *x, const int32_t *ids, size_t n) {
    const int64_t vocab = ds_tokenizer_vocab_size(x->server->format.tokenizer);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return ds_fail(DS_INVALID, "token %d is not in 0 … %lld", ids[i], (long long)vocab - 1);
    return DS_OK;
}

static ds_status begin_answer(ds_exchange *x) {
    ds_server *s = x->server;
    ds_openai_request *r = &x->request;
    const ds_chat_family *family = s->format.chat.family;
    size_t n = 0;
    char id[48];
    snprintf(id, sizeof id, "%s-%016llx", r->kind == DS_OPENAI_CHAT ? "chatcmpl" : "cmpl",
             (unsigned long long)(s->id_salt + x->serial));
    if (!r->has_seed)
        r->sampling.seed = (s->id_salt + x->serial) * 0x9E3779B97F4A7C15u;
    DS_TRY(encode_prompt(&s->format, r, &x->prompt, &n));
    x->n_prompt = (int64_t)n;
    DS_TRY(check_tokens(x, x->prompt, n));
    DS_TRY(check_tokens(x, r->stop_tokens, r->n_stop_tokens));
    DS_TRY(
        ds_grammar_cache_get(&s->grammars, s->model, ds_chat_family_tools(family), r, &x->grammar));
    const ds_openai_answer_opts opts = {.tokenizer = s->format.tokenizer,
                                        .model = s->name,
                                        .id = id,
                                        .tools = ds_chat_family_tools(family),
                                        .stop = ds_chat_family_stop(family),
                                        .prompt = x->prompt,
                                        .n_prompt = x->n_prompt};
    DS_TRY(ds_openai_answer_begin(r, &opts, &x->answer));
    return ds_exchange_submit(x);
}

static enum MHD_Result answer(ds_exchange *x, ds_openai_kind kind) {
    enum MHD_Result sent = MHD_NO;
    if (x->submitted)
        return send_or_wait(x);
    if (!x->server->executor)
        return send_error(
            x, 400, "this model writes no text, it gives embeddings: ask /v1/embeddings", "model");
    if (!read_request(x, kind, &sent))
        return sent;
    const ds_status status = begin_answer(x);
    if (status != DS_OK)
        return send_error(x, code_of(status), ds_error(), NULL);
    ds_watch_add(x);
    return x->request.stream ? start_stream(x) : send_or_wait(x);
}

static enum MHD_Result post_completions(ds_exchange *x) {
    return answer(x, DS_OPENAI_COMPLETION);
}

static enum MHD_Result post_chat(ds_exchange *x) {
    return answer(x, DS_OPENAI_CHAT);
}

static enum MHD_Result post_embeddings(ds_exchange *x) {
    enum MHD_Result sent = MHD_NO;
    ds_embeddings_request request;
    ds_openai_error error;
    if (x->submitted)
        return send_or_wait(x);
    ds_status status = ds_embeddings_request_parse(x->body.data ? x->body.data : "", x->body.length,
                                                   &request, &error);
    ds_text_clear(&x->body);
    if (status != DS_OK)
        return send_error(x, code_of(status), status == DS_INVALID ? error.message : ds_error(),
                          error.param);
    if (!is_served(x, request.model, &sent)) {
        ds_embeddings_request_clear(&request);
        return sent;
    }
    status = ds_embedding_worker_submit(x->server->embeddings, x, &request);
    if (status != DS_OK)
        return send_error(x, code_of(status), ds_error(), NULL);
    ds_watch_add(x);
    return send_or_wait(x);
}

static enum MHD_Result post_tokenize(ds_exchange *x) {
    enum MHD_Result sent = MHD_NO;
    int32_t *ids = NULL;
    size_t n = 0;
    if (!read_request(x, DS_OPENAI_TOKENIZE, &sent))
        return sent;
    const ds_status status = encode_prompt(&x->server->format, &x->request, &ids, &n);
    if (status != DS_OK)
        return send_error(x, code_of(status), ds_error(), NULL);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    free(ids);
    return send_json(x, 200,
                     json_pack("{s:I, s:I, s:o}", "count", (json_int_t)n, "max_model_len",
                               (json_int_t)longest_of(x->server), "tokens", list));
}

/* ---- the table ------------------------------------------------------------------------------- */

static const struct route {
    const char *method, *path;
    enum MHD_Result (*answer)(ds_exchange *);
    bool open; /* asks for no key */
} routes[] = {
    {"GET", "/", get_page, true},
    {"GET", "/health", get_health, true},
    {"GET", "/ready", get_ready, true},
    {"GET", "/metrics", get_metrics, false},
    {"GET", "/v1/models", get_models, false},
    {"POST", "/v1/completions", post_completions, false},
    {"POST", "/v1/chat/completions", post_chat, false},
    {"POST", "/v1/embeddings", post_embeddings, false},
    {"POST", "/tokenize", post_tokenize, false},
};

static bool is_method(const char *method, const char *wanted) {
    return strcmp(method, wanted) == 0 ||
           (strcmp(method, "HEAD") == 0 && strcmp(wanted, "GET") == 0);
}

static const struct route *find_route(const char *method, const char *url, bool *other_method) {
    *other_method = false;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (strcmp(url, routes[i].path) != 0)
            continue;
        if (is_method(method, routes[i].method))
            return &routes[i];
        *other_method = true;
    }
    return NULL;
}

/* In the same time whatever the key: digests are compared, all of their bytes. */
static bool has_key(ds_exchange *x) {
    if (!x->server->opts.api_key)
        return true;
    const char *given =
        MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, "Authorization");
    if (!given || strncasecmp(given, "Bearer ", 7) != 0)
        return false;
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)given + 7, strlen(given + 7), digest);
    return CRYPTO_memcmp(digest, x->server->key_digest, sizeof digest) == 0;
}

/* A page from elsewhere must not use the visitor's own server. Browsers say where a page is from.
 */
static bool is_foreign(const ds_exchange *x) {
    const char *origin = MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, "Origin");
    const char *host = MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, "Host");
    if (!origin)
        return false;
    const char *name = strstr(origin, "://");
    return !name || !host || strcasecmp(name + 3, host) != 0;
}

static bool body_is_too_large(const ds_exchange *x) {
    const char *length =
        MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, "Content-Length");
    return length && strtoull(length, NULL, 10) > x->server->opts.max_body_bytes;
}

static enum MHD_Result refuse_large(ds_exchange *x) {
    char message[96];
    snprintf(message, sizeof message, "the body is larger than %zu bytes",
             x->server->opts.max_body_bytes);
    return send_error(x, 413, message, NULL);
}

bool ds_route_admits(ds_exchange *x, const char *method, const char *url, enum MHD_Result *result) {
    bool other_method = false;
    const struct route *route = find_route(method, url, &other_method);
    if (route && !route->open && !has_key(x))
        *result = send_error(x, 401, "give the server's key: Authorization: Bearer KEY", NULL);
    else if (route && !route->open && is_foreign(x))
        *result = send_error(x, 403, "pages of other origins may not use this server", NULL);
    else if (body_is_too_large(x))
        *result = refuse_large(x);
    else
        return true;
    return false;
}

enum MHD_Result ds_route(ds_exchange *x, const char *method, const char *url) {
    bool other_method = false;
    const struct route *route = find_route(method, url, &other_method);
    if (x->too_large)
        return refuse_large(x);
    if (!route && other_method)
        return send_error(x, 405, "this address does not take that method", NULL);
    if (!route)
        return send_error(
            x, 404,
            "no such address; there are /v1/models, /v1/completions, "
            "/v1/chat/completions, /v1/embeddings, /tokenize, /health, /ready, /metrics and /",
            NULL);
    if (strcmp(route->method, "POST") == 0 && !x->submitted && atomic_load(&x->server->draining))
        return send_error(x, 503, "the server is shutting down", NULL);
    return route->answer(x);
}
