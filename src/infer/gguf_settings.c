#include "infer/gguf_settings.h"

#include "base/error.h"
#include "base/gguf.h"

/* The name of the token whose id is under key. */
static void put_token(const ds_gguf *g, const char *key, const char *name, json_t *out) {
    ds_gguf_strings tokens;
    int64_t id = -1;
    size_t length = 0;
    if (!ds_gguf_integer(g, key, &id) || !ds_gguf_list_strings(g, "tokenizer.ggml.tokens", &tokens))
        return;
    for (int64_t i = 0; i <= id && (size_t)i < tokens.n; i++) {
        const char *token = ds_gguf_next_string(&tokens, &length);
        if (i == id)
            json_object_set_new(out, name, json_stringn(token, length));
    }
}

ds_status ds_gguf_settings(const char *path, json_t **out) {
    ds_gguf *g = NULL;
    int64_t adds = 0;
    DS_TRY(ds_gguf_open(path, &g));
    json_t *settings = json_object();
    const char *jinja = ds_gguf_text(g, "tokenizer.chat_template");
    if (settings && jinja)
        json_object_set_new(settings, "chat_template", json_string(jinja));
    if (settings && ds_gguf_integer(g, "tokenizer.ggml.add_bos_token", &adds))
        json_object_set_new(settings, "add_bos_token", json_boolean(adds != 0));
    if (settings) {
        put_token(g, "tokenizer.ggml.bos_token_id", "bos_token", settings);
        put_token(g, "tokenizer.ggml.eos_token_id", "eos_token", settings);
    }
    ds_gguf_close(g);
    *out = settings;
    return settings ? DS_OK
                    : ds_fail(DS_OUT_OF_MEMORY, "out of memory for the settings of %s", path);
}
