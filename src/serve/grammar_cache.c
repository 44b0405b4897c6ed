#include "serve/grammar_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/text.h"
#include "infer/chat_tools.h"
#include "infer/grammar.h"

/* What is asked for, as text. */
static char *key_of(const ds_openai_request *r) {
    ds_text key = {0};
    json_t *json = r->called ? r->called : r->schema;
    char *dump = json ? json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    ds_text_puts(&key, r->called ? "tools " : r->schema ? "schema " : "grammar ");
    ds_text_puts(&key, json ? dump ? dump : "" : r->grammar);
    key.poisoned = key.poisoned || (json && !dump);
    free(dump);
    char *text = ds_text_take(&key);
    if (!text)
        ds_fail(DS_OUT_OF_MEMORY, "out of memory for a grammar");
    return text;
}

static ds_status make(ds_model *model, const ds_tool_style *tools, const ds_openai_request *r,
                      ds_grammar **out) {
    ds_rules rules = {0};
    if (r->called)
        return ds_tools_grammar(tools, model, r->called, out);
    if (r->grammar)
        return ds_grammar_from_gbnf(model, r->grammar, strlen(r->grammar), out);
    const int32_t whole = ds_rules_new(&rules);
    int32_t rule = -1;
    const ds_status status = ds_json_schema_add(&rules, r->schema, &rule);
    ds_rules_define(&rules, whole, rule >= 0 ? ds_rules_call(&rules, rule, DS_RULES_END) : -1);
    if (status == DS_OK)
        return ds_grammar_from_rules(model, &rules, "schema", out);
    ds_rules_clear(&rules);
    return status;
}

ds_status ds_grammar_cache_get(ds_grammar_cache *cache, ds_model *model, const ds_tool_style *tools,
                               const ds_openai_request *r, ds_grammar **out) {
    *out = NULL;
    if (!r->called && !r->schema && !r->grammar)
        return DS_OK;
    char *key = key_of(r);
    if (!key)
        return DS_OUT_OF_MEMORY;
    size_t oldest = 0;
    for (size_t i = 0; i < DS_GRAMMAR_CACHE; i++) {
        if (cache->rows[i].key && strcmp(cache->rows[i].key, key) == 0) {
            free(key);
            cache->rows[i].last_use = ++cache->clock;
            *out = ds_grammar_retain(cache->rows[i].grammar);
            return DS_OK;
        }
        oldest = cache->rows[i].last_use < cache->rows[oldest].last_use ? i : oldest;
    }
    const ds_status status = make(model, tools, r, out);
    if (status != DS_OK) {
        free(key);
        return status;
    }
    free(cache->rows[oldest].key);
    ds_grammar_free(cache->rows[oldest].grammar);
    cache->rows[oldest].key = key;
    cache->rows[oldest].grammar = ds_grammar_retain(*out);
    cache->rows[oldest].last_use = ++cache->clock;
    return DS_OK;
}

void ds_grammar_cache_clear(ds_grammar_cache *cache) {
    for (size_t i = 0; i < DS_GRAMMAR_CACHE; i++) {
        free(cache->rows[i].key);
        ds_grammar_free(cache->rows[i].grammar);
    }
    *cache = (ds_grammar_cache){0};
}
