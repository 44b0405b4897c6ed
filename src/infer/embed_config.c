/* The files of sentence-transformers in a folder: modules.json lists what a text goes through,
 * 1_Pooling/config.json says how tokens become one vector, sentence_bert_config.json how many there
 * may be. */
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/gguf.h"
#include "infer/embed.h"

#define FILE_LIMIT ((size_t)1 << 20)

/* NULL in *out where there is no such file. */
static ds_status read_json(const char *folder, const char *file, json_t **out) {
    char path[PATH_MAX], *text = NULL;
    size_t size = 0;
    json_error_t error;
    *out = NULL;
    const int n = snprintf(path, sizeof path, "%s/%s", folder, file);
    if (n < 0 || n >= (int)sizeof path || !ds_file_exists(path))
        return DS_OK;
    DS_TRY(ds_file_read(path, FILE_LIMIT, &text, &size));
    *out = json_loadb(text, size, 0, &error);
    free(text);
    return *out ? DS_OK
                : ds_fail(DS_CORRUPT, "%s:%d: no valid JSON: %s", path, error.line, error.text);
}

/* Names of ways to pool, as the older files (a flag each) and the newer ones (a word) have them. */
static const struct {
    const char *flag, *word;
    ds_pooling pooling; /* DS_POOL_AS_TRAINED: not supported */
} ways[] = {
    {"pooling_mode_cls_token", "cls", DS_POOL_FIRST},
    {"pooling_mode_mean_tokens", "mean", DS_POOL_MEAN},
    {"pooling_mode_lasttoken", "lasttoken", DS_POOL_LAST},
    {"pooling_mode_max_tokens", "max", DS_POOL_AS_TRAINED},
    {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", DS_POOL_AS_TRAINED},
    {"pooling_mode_weightedmean_tokens", "weightedmean", DS_POOL_AS_TRAINED},
};
enum { N_WAYS = sizeof ways / sizeof *ways };

static ds_status read_pooling(const json_t *root, ds_embed_config *out) {
    const char *word = json_string_value(json_object_get(root, "pooling_mode"));
    int chosen = -1, n = 0;
    for (int i = 0; i < N_WAYS; i++)
        if (word ? strcmp(ways[i].word, word) == 0
                 : json_is_true(json_object_get(root, ways[i].flag))) {
            chosen = i;
            n++;
        }
    if (n == 0 && !word)
        return DS_OK;
    if (n != 1 || ways[chosen].pooling == DS_POOL_AS_TRAINED)
        return ds_fail(DS_UNSUPPORTED,
                       "embeddings pooled by %s are not supported; those of the mean, the first or "
                       "the last token are",
                       n > 1    ? "several ways at once"
                       : n == 1 ? ways[chosen].word
                                : word);
    out->pooling = ways[chosen].pooling;
    return DS_OK;
}

/* "sentence_transformers.models.Pooling": the last part says what it is. */
static ds_status read_module(const json_t *module, const char *folder, ds_embed_config *out) {
    const char *type = json_string_value(json_object_get(module, "type"));
    const char *path = json_string_value(json_object_get(module, "path"));
    const char *dot = type ? strrchr(type, '.') : NULL;
    const char *name = dot ? dot + 1 : type ? type : "(none)";
    if (strcmp(name, "Normalize") == 0) {
        out->normalised = true;
    } else if (strcmp(name, "Pooling") == 0) {
        char file[PATH_MAX];
        json_t *pooling = NULL;
        snprintf(file, sizeof file, "%s/config.json", path ? path : "1_Pooling");
        if (strstr(file, ".."))
            return ds_fail(DS_INVALID, "modules.json names \"%.200s\", outside the folder", file);
        DS_TRY(read_json(folder, file, &pooling));
        const ds_status status = read_pooling(pooling, out);
        json_decref(pooling);
        return status;
    } else if (strcmp(name, "Transformer") != 0) {
        return ds_fail(DS_UNSUPPORTED,
                       "modules.json asks for a \"%.60s\", which is not supported for embeddings; "
                       "Transformer, Pooling and Normalize are",
                       name);
    }
    return DS_OK;
}

static ds_status read_folder(const char *folder, ds_embed_config *out) {
    json_t *modules = NULL, *limits = NULL, *module;
    size_t i;
    DS_TRY(read_json(folder, "modules.json", &modules));
    ds_status status = DS_OK;
    if (modules)
        out->normalised = false; /* unless one of them does it */
    json_array_foreach(modules, i, module) {
        status = read_module(module, folder, out);
        if (status != DS_OK)
            break;
    }
    json_decref(modules);
    if (status == DS_OK)
        status = read_json(folder, "sentence_bert_config.json", &limits);
    const json_t *most = json_object_get(limits, "max_seq_length");
    if (json_is_integer(most) && json_integer_value(most) > 0 &&
        json_integer_value(most) < out->longest)
        out->longest = json_integer_value(most);
    json_decref(limits);
    return status == DS_OK ? DS_OK : ds_fail_within(status, "%s", folder);
}

/* llama.cpp's numbers: 0 none, 1 mean, 2 [CLS], 3 last, 4 a rank. */
static ds_status read_gguf(const char *path, ds_embed_config *out) {
    static const ds_pooling poolings[] = {DS_POOL_AS_TRAINED, DS_POOL_MEAN, DS_POOL_FIRST,
                                          DS_POOL_LAST};
    ds_gguf *g = NULL;
    char key[128];
    int64_t type = 0;
    DS_TRY(ds_gguf_open(path, &g));
    const char *architecture = ds_gguf_text(g, "general.architecture");
    snprintf(key, sizeof key, "%.100s.pooling_type", architecture ? architecture : "");
    (void)ds_gguf_integer(g, key, &type);
    ds_gguf_close(g);
    if (type < 0 || type > 3)
        return ds_fail(DS_UNSUPPORTED, "%s: %s %lld is not supported; 1 to 3 are", path, key,
                       (long long)type);
    out->pooling = type > 0 ? poolings[type] : out->pooling;
    return DS_OK;
}

ds_status ds_embed_config_load(const char *path, const ds_model_config *config,
                               ds_embed_config *out) {
    *out =
        (ds_embed_config){.pooling = config->architecture == DS_BERT ? DS_POOL_MEAN : DS_POOL_LAST,
                          .normalised = true,
                          .longest = config->max_seq_len};
    if (ds_folder_exists(path))
        return read_folder(path, out);
    return ds_gguf_is(path) ? read_gguf(path, out) : DS_OK;
}
