/* A request inside the executor. Its tokens are prompt and answer in one array; `computed` of them
 * have their keys and values in the cache. */
#ifndef DS_INFER_REQUEST_LIST_H
#define DS_INFER_REQUEST_LIST_H

#include "deepseek/inference.h"

typedef struct ds_live_request {
    uint64_t id;
    bool cancelled, ended; /* under the executor's lock */
    ds_finish finish;
    int priority;
    int32_t *tokens; /* [n_tokens], room for longest */
    int64_t n_prompt, n_tokens, longest;
    int64_t computed, chunk; /* chunk: tokens of the step at hand */
    int64_t n_cached;        /* of the prompt, found in the cache when it began */
    int32_t *blocks;         /* [n_blocks], room for longest */
    int64_t n_blocks, n_published;
    uint64_t key; /* of the last published block */
    ds_sampling sampling;
    ds_logit_bias *bias;
    int32_t *stop_tokens;
    size_t n_stop_tokens;
    bool logprobs;
    int n_top;
    void (*on_logits)(float *logits, int64_t n, const int32_t *answer, int64_t n_answer,
                      void *context);
    ds_grammar_cursor *cursor; /* NULL: any answer */
    void (*on_event)(const ds_event *event, void *context);
    void *context;
    struct ds_live_request *next_in_chain;   /* of the table of ids */
    struct ds_live_request *previous, *next; /* of those that wait, or of those that run */
} ds_live_request;

/* Copies all that the request points to. longest: tokens of prompt and answer. */
ds_status ds_live_request_new(const ds_request *request, int64_t longest, int64_t block_size,
                              ds_live_request **out);
void ds_live_request_free(ds_live_request *r);

/* ---- lists: higher priority first, then the older one ------------------------------------------
 */

typedef struct ds_request_list {
    ds_live_request *first, *last;
    int64_t n;
} ds_request_list;

void ds_request_list_insert(ds_request_list *list, ds_live_request *r);
void ds_request_list_remove(ds_request_list *list, ds_live_request *r);

/* ---- by id ----------------------------------------------------------------------------------- */

enum { DS_REQUEST_CHAINS = 4096 };

typedef struct ds_request_table {
    ds_live_request *chains[DS_REQUEST_CHAINS];
} ds_request_table;

void ds_request_table_put(ds_request_table *table, ds_live_request *r);
ds_live_request *ds_request_table_get(const ds_request_table *table, uint64_t id);
void ds_request_table_remove(ds_request_table *table, ds_live_request *r);

#endif
