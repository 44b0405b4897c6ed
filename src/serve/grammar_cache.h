/* The grammars of the last requests: clients ask for the same form again and again, and what a
 * grammar has found out about the vocabulary is worth keeping. Belongs to one thread. */
#ifndef DS_SERVE_GRAMMAR_CACHE_H
#define DS_SERVE_GRAMMAR_CACHE_H

#include "serve/openai_request.h"

enum { DS_GRAMMAR_CACHE = 4 };

typedef struct ds_grammar_cache {
    struct {
        char *key;
        ds_grammar *grammar;
        uint64_t last_use;
    } rows[DS_GRAMMAR_CACHE];
    uint64_t clock;
} ds_grammar_cache;

/* The form of the request's answer, the caller's to free; NULL where it may have any. tools: the
 * notation of the model's template. */
ds_status ds_grammar_cache_get(ds_grammar_cache *cache, ds_model *model,
                               const struct ds_tool_style *tools, const ds_openai_request *request,
                               ds_grammar **out);
void ds_grammar_cache_clear(ds_grammar_cache *cache);

#endif
