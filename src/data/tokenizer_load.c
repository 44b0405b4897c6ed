/* Finding a tokenizer on disk: which of the known files a path means, and what lies beside it. */
#include "data/tokenizer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"

#define FILE_LIMIT ((size_t)256 << 20) /* the largest vocabularies in use take some 20 MB */
#define PATH_BYTES 4096

static const char *beside(char out[PATH_BYTES], const char *folder, size_t length,
                          const char *name) {
    const int n = snprintf(out, PATH_BYTES, "%.*s%s%s", (int)length, folder,
                           length > 0 && folder[length - 1] != '/' ? "/" : "", name);
    return n > 0 && n < PATH_BYTES ? out : NULL;
}

/* GPT-2 as released, and as Hugging Face names the same two files. */
static const char *const gpt2_pairs[][2] = {
    {"encoder.json", "vocab.bpe"},
    {"vocab.json", "merges.txt"},
};

static ds_status load_gpt2(const char *vocab, const char *merges, ds_tokenizer **out) {
    ds_text json = {0};
    ds_status status = ds_tokenizer_json_from_gpt2(vocab, merges, &json);
    if (status == DS_OK) {
        status = ds_tokenizer_from_json(json.data, json.length, out);
        if (status != DS_OK)
            ds_fail_within(status, "%s with %s", vocab, merges);
    }
    ds_text_clear(&json);
    return status;
}

/* A token's name in tokenizer_config.json: a string, or an object with "content". */
static int32_t configured(const ds_tokenizer *tok, json_t *config, const char *key) {
    json_t *value = json_object_get(config, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    const char *name = json_string_value(value);
    return name ? ds_tokenizer_find(tok, name) : -1;
}

static ds_status read_config(ds_tokenizer *tok, const char *path) {
    char *text = NULL;
    size_t size = 0;
    DS_TRY(ds_file_read(path, FILE_LIMIT, &text, &size));
    json_error_t error;
    /* "model_max_length" is often 1e30, written out */
    json_t *config = json_loadb(text, size, JSON_DECODE_INT_AS_REAL, &error);
    free(text);
    if (!config)
        return ds_fail(DS_CORRUPT, "%s:%d: no valid JSON: %s", path, error.line, error.text);
    const int32_t bos = configured(tok, config, "bos_token");
    const int32_t eos = configured(tok, config, "eos_token");
    tok->bos = bos >= 0 ? bos : tok->bos;
    tok->eos = eos >= 0 ? eos : tok->eos;
    json_decref(config);
    return DS_OK;
}

static ds_status load_file(const char *path, ds_tokenizer **out) {
    char *data = NULL;
    size_t size = 0;
    DS_TRY(ds_file_read(path, FILE_LIMIT, &data, &size));
    ds_status status = DS_OK;
    const size_t length = strlen(path);
    if (length > 4 && strcmp(path + length - 4, ".bin") == 0) {
        ds_text json = {0};
        status = ds_tokenizer_json_from_llama2c(path, data, size, &json);
        if (status == DS_OK)
            status = ds_tokenizer_from_json(json.data, json.length, out);
        ds_text_clear(&json);
    } else {
        status = ds_tokenizer_from_json(data, size, out);
        if (status != DS_OK)
            ds_fail_within(status, "%s", path);
    }
    free(data);
    return status;
}

static ds_status load_folder(const char *path, ds_tokenizer **out) {
    char file[PATH_BYTES], other[PATH_BYTES];
    const size_t length = strlen(path);
    if (beside(file, path, length, "tokenizer.json") && ds_file_exists(file)) {
        DS_TRY(load_file(file, out));
        if (!beside(file, path, length, "tokenizer_config.json") || !ds_file_exists(file))
            return DS_OK;
        const ds_status status = read_config(*out, file);
        if (status != DS_OK) {
            ds_tokenizer_free(*out);
            *out = NULL;
        }
        return status;
    }
    for (size_t i = 0; i < sizeof gpt2_pairs / sizeof *gpt2_pairs; i++)
        if (beside(file, path, length, gpt2_pairs[i][0]) && ds_file_exists(file) &&
            beside(other, path, length, gpt2_pairs[i][1]) && ds_file_exists(other))
            return load_gpt2(file, other, out);
    return ds_fail(DS_NOT_FOUND,
                   "%s: the folder holds neither tokenizer.json nor encoder.json with "
                   "vocab.bpe nor vocab.json with merges.txt",
                   path);
}

ds_status ds_tokenizer_load(const char *path, ds_tokenizer **out) {
    *out = NULL;
    if (ds_folder_exists(path))
        return load_folder(path, out);
    const size_t length = strlen(path);
    for (size_t i = 0; i < sizeof gpt2_pairs / sizeof *gpt2_pairs; i++) {
        const char *name = gpt2_pairs[i][0];
        const size_t n = strlen(name);
        if (length < n || strcmp(path + length - n, name) != 0)
            continue;
        char other[PATH_BYTES], changed[64];
        snprintf(changed, sizeof changed, "%s", gpt2_pairs[i][1]);
        /* "gpt2.encoder.json" goes with "gpt2.vocab.bpe": only the end of the name changes */
        const int m = snprintf(other, sizeof other, "%.*s%s", (int)(length - n), path, changed);
        if (m > 0 && m < PATH_BYTES && ds_file_exists(other))
            return load_gpt2(path, other, out);
    }
    return load_file(path, out);
}
