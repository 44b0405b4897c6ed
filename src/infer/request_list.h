/* A request inside the executor. Its tokens are prompt and answer in one array; `computed` of them
 * have their keys and values in the cache. */
#ifndef DS_INFER_REQUEST_LIST_H
#define DS_INFER_REQUEST_LIST_H

#include "deepseek/inference.h"
#include "infer/lanes.h"

/* How many tokens a request is proposed at once, by how well that went (speculate.c). */
typedef struct ds_depth {
    int now;               /* 0: none for a while */
    int pause, last_pause; /* answer tokens still to pass, and those of the last time */
} ds_depth;

typedef struct ds_live_request {
    uint64_t id;
    bool cancelled, ended; /* under the executor's lock */
    ds_finish finish;
    char error[256]; /* with DS_FINISH_ERROR */
    int priority;
    int64_t arrival; /* steps of the executor by then */
    int32_t *tokens; /* [n_tokens], room for longest */
    int64_t n_prompt, n_tokens, longest;
    int64_t computed, chunk; /* chunk: tokens of the step at hand */
    bool waits;              /* in that step: another one computes the block that it needs next */
    int64_t n_draft;         /* of them the last ones: proposals, in tokens behind n_tokens */
    int64_t drafted;         /* tokens whose keys and values the draft model has */
    ds_depth depth;
    int64_t n_cached; /* of the prompt, found in the cache */
    int32_t *blocks;  /* [n_blocks], room for longest */
    int64_t n_blocks, n_published;
    int64_t n_behind; /* of the blocks the first ones, behind the window, given back already */
    uint64_t key;     /* of the last published block */
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
    ds_errand last_errand;                   /* that tells of its end */
    struct ds_live_request *next_in_chain;   /* of the table of ids */
    struct ds_live_request *previous, *next; /* of those that wait, or of those that run */
} ds_live_request;

/* Copies all that the request points to. longest: tokens of prompt and answer. */
ds_status ds_live_request_new(const ds_request *request, int64_t longest, int64_t block_size,
                              ds_live_request **out);
void ds_live_request_free(ds_live_request *r);

/* ---- lists: higher priority first, then the older one ---------------------------------------- */

/* A request that has waited for so many steps goes before newer ones of the next higher priority,
 * so that none waits for ever. */
enum { DS_STEPS_A_PRIORITY = 1000 };

bool ds_request_goes_before(const ds_live_request *a, const ds_live_request *b);

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
