#include "infer/request_list.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "deepseek/grammar.h"

static void *copy_of(const void *from, size_t n, size_t size) {
    void *to = ds_malloc(n * size + 1);
    if (to && n > 0)
        memcpy(to, from, n * size);
    return to;
}

ds_status ds_live_request_new(const ds_request *request, int64_t longest, int64_t block_size,
                              ds_live_request **out) {
    ds_live_request *r = ds_calloc(1, sizeof *r);
    if (!r)
        return DS_OUT_OF_MEMORY;
    r->priority = request->priority;
    r->n_prompt = r->n_tokens = request->n_prompt;
    r->longest = longest;
    r->sampling = request->sampling;
    r->n_stop_tokens = request->n_stop_tokens;
    r->logprobs = request->logprobs;
    r->n_top = request->top_logprobs;
    r->on_logits = request->on_logits;
    r->on_event = request->on_event;
    r->context = request->context;
    r->tokens = ds_malloc((size_t)longest * sizeof *r->tokens);
    r->blocks = ds_malloc((size_t)((longest + block_size - 1) / block_size) * sizeof *r->blocks);
    r->bias = copy_of(request->sampling.bias, request->sampling.n_bias, sizeof *r->bias);
    r->stop_tokens = copy_of(request->stop_tokens, request->n_stop_tokens, sizeof *r->stop_tokens);
    if (!r->tokens || !r->blocks || !r->bias || !r->stop_tokens) {
        ds_live_request_free(r);
        return DS_OUT_OF_MEMORY;
    }
    if (request->grammar && ds_grammar_cursor_new(request->grammar, &r->cursor) != DS_OK) {
        ds_live_request_free(r);
        return DS_OUT_OF_MEMORY;
    }
    memcpy(r->tokens, request->prompt, (size_t)request->n_prompt * sizeof *r->tokens);
    r->sampling.bias = r->bias;
    *out = r;
    return DS_OK;
}

void ds_live_request_free(ds_live_request *r) {
    if (!r)
        return;
    free(r->tokens);
    free(r->blocks);
    free(r->bias);
    free(r->stop_tokens);
    ds_grammar_cursor_free(r->cursor);
    free(r);
}

bool ds_request_goes_before(const ds_live_request *a, const ds_live_request *b) {
    const int64_t x = (int64_t)a->priority * DS_STEPS_A_PRIORITY - a->arrival;
    const int64_t y = (int64_t)b->priority * DS_STEPS_A_PRIORITY - b->arrival;
    return x != y ? x > y : a->id < b->id;
}

void ds_request_list_insert(ds_request_list *list, ds_live_request *r) {
    ds_live_request *before = list->last;
    while (before && ds_request_goes_before(r, before))
        before = before->previous;
    r->previous = before;
    r->next = before ? before->next : list->first;
    *(before ? &before->next : &list->first) = r;
    *(r->next ? &r->next->previous : &list->last) = r;
    list->n++;
}

void ds_request_list_remove(ds_request_list *list, ds_live_request *r) {
    *(r->previous ? &r->previous->next : &list->first) = r->next;
    *(r->next ? &r->next->previous : &list->last) = r->previous;
    r->previous = r->next = NULL;
    list->n--;
}

static ds_live_request **chain_of(ds_request_table *table, uint64_t id) {
    return &table->chains[id % DS_REQUEST_CHAINS];
}

void ds_request_table_put(ds_request_table *table, ds_live_request *r) {
    r->next_in_chain = *chain_of(table, r->id);
    *chain_of(table, r->id) = r;
}

ds_live_request *ds_request_table_get(const ds_request_table *table, uint64_t id) {
    ds_live_request *r = table->chains[id % DS_REQUEST_CHAINS];
    while (r && r->id != id)
        r = r->next_in_chain;
    return r;
}

void ds_request_table_remove(ds_request_table *table, ds_live_request *r) {
    ds_live_request **at = chain_of(table, r->id);
    while (*at != r)
        at = &(*at)->next_in_chain;
    *at = r->next_in_chain;
}
