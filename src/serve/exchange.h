/* One HTTP request from its first byte to the last of its answer. Three parties hold it, each with
 * a reference: the connection, the response that reads from it, and the executor. */
#ifndef DS_SERVE_EXCHANGE_H
#define DS_SERVE_EXCHANGE_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "infer/prompt.h"
#include "serve/answer.h"
#include "serve/embeddings.h"
#include "serve/grammar_cache.h"
#include "serve/metrics.h"
#include "serve/server.h"

typedef struct ds_exchange ds_exchange;

/* One choice of the answer: a request of the executor. */
typedef struct ds_exchange_part {
    ds_exchange *exchange;
    int index;
    uint64_t id; /* the executor's */
    bool submitted;
    double last_token_s;
} ds_exchange_part;

/* Of a client. By the deadline its request must be here, or its answer read. */
typedef struct ds_connection {
    int socket;
    double deadline_s;
    struct ds_connection *next, *previous;
} ds_connection;

enum {
    DS_LAST_WORDS_S = 2,     /* to read the message of a request that is given up */
    DS_MOST_UNREAD = 8 << 20 /* bytes of a stream that wait for a client to read */
};

struct ds_exchange {
    ds_server *server;
    struct MHD_Connection *connection;
    ds_exchange *next, *previous; /* in the server's list, while at work */
    atomic_int references;
    uint64_t serial; /* tells one from another at the same socket */
    int socket;
    bool refused, listed; /* refused: answered before its body came */
    ds_text body;
    bool too_large;
    pthread_mutex_t lock; /* guards what follows */
    ds_openai_request request;
    ds_openai_answer answer;
    ds_grammar *grammar; /* of the answers; NULL: any */
    int32_t *prompt;     /* [n_prompt], until it is submitted */
    int64_t n_prompt;
    ds_exchange_part *parts;                 /* [answer.n] */
    size_t n_sent;                           /* of answer.out */
    bool suspended, submitted, done, broken; /* broken: nothing more can be sent */
    unsigned code;                           /* of the answer, once done */
    double begin_s, deadline_s;
};

struct ds_server {
    struct MHD_Daemon *daemon;
    ds_model *model;
    ds_async_executor *executor; /* NULL: the model gives embeddings only */
    ds_embedding_worker *embeddings;
    ds_server_opts opts;
    const char *name;
    ds_sampling sampling; /* where a request says nothing */
    ds_prompt_format format;
    ds_grammar_cache grammars; /* of the thread that serves connections */
    ds_metrics metrics;
    unsigned char key_digest[32];
    int64_t created;
    atomic_bool draining, closing, stopping; /* no new ones; no waiting; the watcher */
    atomic_ullong last_serial;
    uint64_t id_salt;
    pthread_mutex_t list_lock;
    ds_connection *connections;
    ds_exchange *at_work;
    int n_at_work;
    int watch; /* epoll */
    pthread_t watcher;
    bool has_watcher;
};

ds_exchange *ds_exchange_new(ds_server *server, struct MHD_Connection *connection);
void ds_exchange_release(ds_exchange *x);

/* Hands the parsed request, whose answer was begun, to the executor: all choices or none. */
ds_status ds_exchange_submit(ds_exchange *x);
/* For work that is not the executor's: it counts as at work, with a reference, until it is
 * completed by the whole body of its answer, which is taken over. */
void ds_exchange_begin(ds_exchange *x);
void ds_exchange_complete(ds_exchange *x, unsigned code, ds_text *body);
bool ds_exchange_is_done(ds_exchange *x); /* perhaps early */
/* Ends it early: with a message for the client, or (NULL) with nothing, when the client is gone.
 * Returns whether it was still at work. */
bool ds_exchange_abort(ds_exchange *x, unsigned code, const char *message, const char *type);
/* For MHD: what a streaming response sends next. */
ssize_t ds_exchange_read(void *exchange, uint64_t position, char *buffer, size_t size);

/* The lists of exchanges at work and of connections, and the thread that watches them. */
ds_status ds_watch_begin(ds_server *server);
void ds_watch_end(ds_server *server);
void ds_watch_add(ds_exchange *x);
void ds_watch_remove(ds_exchange *x);
/* For MHD: a connection begins, or ends. */
void ds_watch_connection(void *server, struct MHD_Connection *connection, void **context,
                         enum MHD_ConnectionNotificationCode what);
/* Moves the connection's deadline. */
void ds_watch_allow(ds_server *server, struct MHD_Connection *connection, double until_s);
int ds_watch_count(ds_server *server);
/* When the oldest exchange at work began; HUGE_VAL for none. */
double ds_watch_oldest_s(ds_server *server);
void ds_watch_abort_all(ds_server *server, const char *message);

/* Answers a complete request (routes.c). */
enum MHD_Result ds_route(ds_exchange *x, const char *method, const char *url);
/* Whether it may go on, told from its headers; if not, the refusal is queued, and *result is what
 * MHD is to be told. */
bool ds_route_admits(ds_exchange *x, const char *method, const char *url, enum MHD_Result *result);

#endif
