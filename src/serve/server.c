#include "serve/server.h"

#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "serve/exchange.h"

enum { DEFAULT_CONNECTIONS = 256, IDLE_S = 60, DEFAULT_TIMEOUT_S = 600 };
#define DEFAULT_BODY ((size_t)8 << 20)

/* ---- called by libmicrohttpd ----------------------------------------------------------------- */

static enum MHD_Result begin(ds_server *s, struct MHD_Connection *connection, const char *url,
                             const char *method, void **context) {
    enum MHD_Result result = MHD_YES;
    ds_exchange *x = ds_exchange_new(s, connection);
    if (!x)
        return MHD_NO;
    *context = x;
    ds_watch_allow(s, connection, x->begin_s + s->opts.timeout_s + DS_LAST_WORDS_S);
    x->refused = !ds_route_admits(x, method, url, &result);
    return result;
}

static enum MHD_Result handle(void *server, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **context) {
    (void)version;
    ds_server *s = server;
    ds_exchange *x = *context;
    if (!x)
        return begin(s, connection, url, method, context);
    if (*size > 0) {
        /* what is too much is read and forgotten, so that the client gets to read the refusal */
        x->too_large = x->too_large || x->body.length + *size > s->opts.max_body_bytes;
        if (!x->too_large && !x->refused)
            ds_text_append(&x->body, data, *size);
        *size = 0;
        return x->body.poisoned ? MHD_NO : MHD_YES;
    }
    return x->refused ? MHD_YES : ds_route(x, method, url);
}

static void completed(void *server, struct MHD_Connection *connection, void **context,
                      enum MHD_RequestTerminationCode why) {
    (void)why;
    ds_server *s = server;
    ds_exchange *x = *context;
    if (!x)
        return;
    /* one that sends nothing is closed before, by MHD */
    const double until_s = ds_clock_s() + fmax(s->opts.timeout_s, IDLE_S) + DS_LAST_WORDS_S;
    ds_watch_allow(s, connection, until_s);
    if (x->submitted && ds_exchange_abort(x, 0, NULL, NULL))
        ds_metrics_count_disconnect(&s->metrics);
    ds_watch_remove(x);
    ds_exchange_release(x);
    *context = NULL;
}

static void note(void *context, const char *fmt, va_list ap) {
    (void)context;
    char line[512];
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\n")] = '\0';
    ds_log(DS_LOG_DEBUG, "http: %s", line);
}

/* ---- starting -------------------------------------------------------------------------------- */

static unsigned flags_of(const ds_server_opts *o, int family) {
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    flags |= o->tls_cert ? MHD_USE_TLS : 0;
    flags |= family == AF_INET6 ? MHD_USE_IPv6 : 0;
    return flags;
}

static struct MHD_Daemon *start(ds_server *s, const struct addrinfo *at) {
    const struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)s->opts.tls_cert},
                                         {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)s->opts.tls_key},
                                         {MHD_OPTION_END, 0, NULL}};
    const struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    return MHD_start_daemon(
        flags_of(&s->opts, at->ai_family), 0, NULL, NULL, handle, s, MHD_OPTION_EXTERNAL_LOGGER,
        note, NULL, MHD_OPTION_SOCK_ADDR, at->ai_addr, MHD_OPTION_NOTIFY_COMPLETED, completed, s,
        MHD_OPTION_NOTIFY_CONNECTION, ds_watch_connection, s, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)s->opts.max_connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_S,
        MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_ARRAY, s->opts.tls_cert ? tls : none,
        MHD_OPTION_END);
}

static ds_status listen_at(ds_server *s) {
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char port[16];
    snprintf(port, sizeof port, "%d", s->opts.port);
    const int failed = getaddrinfo(s->opts.host, port, &hints, &found);
    if (failed)
        return ds_fail(DS_INVALID, "host '%s': %s", s->opts.host, gai_strerror(failed));
    errno = 0;
    s->daemon = start(s, found);
    freeaddrinfo(found);
    if (s->daemon)
        return DS_OK;
    return ds_fail(DS_IO, "cannot listen at %s port %d: %s", s->opts.host, s->opts.port,
                   errno              ? strerror(errno)
                   : s->opts.tls_cert ? "are the TLS certificate and key whole?"
                                      : "is it in use?");
}

static void set_defaults(ds_server_opts *o) {
    o->host = o->host ? o->host : "127.0.0.1";
    o->max_body_bytes = o->max_body_bytes ? o->max_body_bytes : DEFAULT_BODY;
    o->max_connections = o->max_connections ? o->max_connections : DEFAULT_CONNECTIONS;
    o->timeout_s = o->timeout_s > 0 ? o->timeout_s : DEFAULT_TIMEOUT_S;
}

static ds_status check_opts(const ds_model *model, const ds_server_opts *o) {
    if (!ds_model_get_tokenizer(model))
        return ds_fail(DS_INVALID, "the model has no tokenizer: put its tokenizer.json beside it");
    if (!o->tls_cert != !o->tls_key)
        return ds_fail(DS_INVALID, "TLS needs a certificate and a key, not one of them");
    if (o->tls_cert && MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
        return ds_fail(DS_UNSUPPORTED, "this libmicrohttpd was built without TLS");
    return DS_OK;
}

static ds_status open_server(ds_server *s) {
    DS_TRY(check_opts(s->model, &s->opts));
    DS_TRY(ds_prompt_format_load(ds_model_get_tokenizer(s->model), s->opts.folder, &s->format));
    if (ds_model_get_config(s->model)->architecture != DS_BERT)
        DS_TRY(ds_async_executor_new(s->model, s->opts.executor, &s->executor));
    DS_TRY(ds_embedding_worker_new(s->model, s->name, s->opts.executor.max_queue, &s->embeddings));
    DS_TRY(ds_watch_begin(s));
    return listen_at(s);
}

ds_status ds_server_new(ds_model *model, const ds_server_opts *opts, ds_server **out) {
    ds_server *s = ds_calloc(1, sizeof *s);
    if (!s)
        return DS_OUT_OF_MEMORY;
    s->model = model;
    s->opts = *opts;
    s->watch = -1;
    s->created = (int64_t)time(NULL);
    set_defaults(&s->opts);
    s->name = opts->name ? opts->name : ds_model_get_name(model);
    s->sampling = ds_openai_sampling;
    if (!opts->plain_sampling)
        ds_model_wanted_sampling(model, &s->sampling);
    ds_metrics_init(&s->metrics);
    pthread_mutex_init(&s->list_lock, NULL);
    if (getrandom(&s->id_salt, sizeof s->id_salt, 0) != (ssize_t)sizeof s->id_salt)
        s->id_salt = (uint64_t)s->created; /* ids and seeds need no secret */
    if (opts->api_key)
        SHA256((const unsigned char *)opts->api_key, strlen(opts->api_key), s->key_digest);
    const ds_status status = open_server(s);
    if (status != DS_OK) {
        ds_server_free(s);
        return status;
    }
    *out = s;
    return DS_OK;
}

int ds_server_port(const ds_server *s) {
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
    return info ? info->port : s->opts.port;
}

const char *ds_server_template(const ds_server *s, bool *recognised) {
    *recognised = s->format.chat.recognised;
    return ds_chat_family_name(s->format.chat.family);
}

bool ds_server_generates(const ds_server *s) {
    return s->executor != NULL;
}

/* ---- ending ---------------------------------------------------------------------------------- */

static bool wait_for_end(ds_server *s, double seconds) {
    const double until = ds_clock_s() + seconds;
    const struct timespec moment = {.tv_nsec = 10000000};
    while (ds_watch_count(s) > 0) {
        if (ds_clock_s() >= until)
            return false;
        nanosleep(&moment, NULL);
    }
    return true;
}

int ds_server_drain(ds_server *s, double timeout_s) {
    atomic_store(&s->draining, true);
    if (wait_for_end(s, timeout_s))
        return 0;
    const int given_up = ds_watch_count(s);
    ds_watch_abort_all(s, "the server is shutting down");
    wait_for_end(s, DS_LAST_WORDS_S);
    return given_up;
}

void ds_server_free(ds_server *s) {
    if (!s)
        return;
    atomic_store(&s->draining, true);
    atomic_store(&s->closing, true); /* whoever is not yet listed sees it before it waits */
    if (s->daemon) {
        ds_watch_abort_all(s, "the server is shutting down"); /* none may stay suspended */
        MHD_stop_daemon(s->daemon);
    }
    ds_watch_end(s);
    ds_async_executor_free(s->executor); /* its callbacks hold exchanges to the end */
    ds_grammar_cache_clear(&s->grammars);
    ds_embedding_worker_free(s->embeddings);
    ds_metrics_destroy(&s->metrics);
    pthread_mutex_destroy(&s->list_lock);
    free(s);
}
