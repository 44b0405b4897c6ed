/* /v1/embeddings: what a client asks for, and a thread that answers it. Requests that wait go
 * through the model together. */
#ifndef DS_SERVE_EMBEDDINGS_H
#define DS_SERVE_EMBEDDINGS_H

#include "base/text.h"
#include "deepseek/embeddings.h"
#include "serve/openai_request.h"

enum { DS_MOST_EMBEDDINGS = 2048 }; /* texts of a request, as OpenAI's */

typedef struct ds_embeddings_request {
    const char *model; /* NULL: not given */
    size_t n;
    const char **texts;   /* [n]; NULL where a text is given as tokens */
    ds_token_list *lists; /* [n] of those */
    bool base64;          /* vectors as text: little-endian f32 in base64 */
    bool truncate;        /* of a text that is too long, take the beginning */
    int64_t dimensions;   /* 0: all */
    void *json;           /* owns the strings above */
} ds_embeddings_request;

/* DS_INVALID fills *error; then, and when out of memory, there is nothing to clear. */
ds_status ds_embeddings_request_parse(const char *body, size_t size, ds_embeddings_request *out,
                                      ds_openai_error *error);
void ds_embeddings_request_clear(ds_embeddings_request *request);

/* Appends the answer: vectors f32 [n, size]. */
void ds_embeddings_write(const ds_embeddings_request *request, const float *vectors, int64_t size,
                         const char *model, int64_t n_tokens, ds_text *out);

typedef struct ds_embedding_worker ds_embedding_worker;
struct ds_exchange;

/* max_queue: requests that may wait; 0: 1024. The model and the name are borrowed. */
ds_status ds_embedding_worker_new(ds_model *model, const char *name, int max_queue,
                                  ds_embedding_worker **out);
/* Completes what waits by an error and ends its thread. NULL is fine. */
void ds_embedding_worker_free(ds_embedding_worker *worker);
/* Takes the request over, also when it fails: DS_BUSY for a full queue. The exchange is completed
 * later, from another thread. */
ds_status ds_embedding_worker_submit(ds_embedding_worker *worker, struct ds_exchange *exchange,
                                     ds_embeddings_request *request);
/* Of the executor's numbers those that it has too. A batch is a step. */
void ds_embedding_worker_stats(ds_embedding_worker *worker, ds_executor_stats *out);

#endif
