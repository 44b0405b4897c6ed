/* Finding a tokenizer on disk: which of the known files a path means, and what lies beside it. */
#include "data/tokenizer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/gguf.h"

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

typedef ds_status rewrite_fn(const char *path, const char *data, size_t size, ds_text *json);

static ds_status rewrite_sentencepiece(const char *path, const char *data, size_t size,
                                       ds_text *json) {
    return ds_tokenizer_json_from_sentencepiece(path, (const unsigned char *)data, size, json);
}

/* tokenizer_config.json beside the list may say that capitals stay. */
static ds_status rewrite_wordlist(const char *path, const char *data, size_t size, ds_text *json) {
    const char *slash = strrchr(path, '/');
    char file[PATH_BYTES], *config = NULL;
    size_t config_size = 0;
    if (beside(file, path, slash ? (size_t)(slash - path) + 1 : 0, "tokenizer_config.json") &&
        ds_file_exists(file))
        DS_TRY(ds_file_read(file, FILE_LIMIT, &config, &config_size));
    const ds_status status = ds_tokenizer_json_from_wordlist(path, data, size, config, json);
    free(config);
    return status;
}

/* Other formats, told by the end of their names. */
static const struct {
    const char *end;
    rewrite_fn *rewrite;
} formats[] = {
    {".bin", ds_tokenizer_json_from_llama2c},
    {".model", rewrite_sentencepiece},
    {"vocab.txt", rewrite_wordlist},
};

static rewrite_fn *rewriter_of(const char *path) {
    const size_t length = strlen(path);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        const size_t n = strlen(formats[i].end);
        if (length >= n && strcmp(path + length - n, formats[i].end) == 0)
            return formats[i].rewrite;
    }
    return NULL;
}

static ds_status load_data(const char *path, const char *data, size_t size, ds_tokenizer **out) {
    rewrite_fn *rewrite = rewriter_of(path);
    ds_text json = {0};
    ds_status status = rewrite ? rewrite(path, data, size, &json) : DS_OK;
    if (status == DS_OK) {
        status = rewrite ? ds_tokenizer_from_json(json.data, json.length, out)
                         : ds_tokenizer_from_json(data, size, out);
        if (status != DS_OK)
            ds_fail_within(status, "%s", path);
    }
    ds_text_clear(&json);
    return status;
}

static int32_t id_at(const ds_tokenizer *tok, const ds_gguf *g, const char *key, int32_t other) {
    int64_t id = -1;
    return ds_gguf_integer(g, key, &id) && id >= 0 && (size_t)id < tok->n ? (int32_t)id : other;
}

static ds_status load_gguf(const char *path, ds_tokenizer **out) {
    ds_gguf *g = NULL;
    ds_text json = {0};
    DS_TRY(ds_gguf_open(path, &g));
    ds_status status = ds_tokenizer_json_from_gguf(g, &json);
    if (status == DS_OK) {
        status = ds_tokenizer_from_json(json.data, json.length, out);
        if (status != DS_OK)
            ds_fail_within(status, "%s", path);
    }
    if (status == DS_OK) {
        ds_tokenizer *tok = *out;
        tok->bos = id_at(tok, g, "tokenizer.ggml.bos_token_id", tok->bos);
        tok->eos = id_at(tok, g, "tokenizer.ggml.eos_token_id", tok->eos);
    }
    ds_text_clear(&json);
    ds_gguf_close(g);
    return status;
}

static ds_status load_file(const char *path, ds_tokenizer **out) {
    char *data = NULL;
    size_t size = 0;
    if (ds_gguf_is(path))
        return load_gguf(path, out);
    DS_TRY(ds_file_read(path, FILE_LIMIT, &data, &size));
    const ds_status status = load_data(path, data, size, out);
    free(data);
    return status;
}

/* What a folder may hold in place of a tokenizer.json, in this order. */
static const char *const other_files[] = {"tokenizer.model", "spiece.model", "vocab.txt"};

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
    for (size_t i = 0; i < sizeof other_files / sizeof *other_files; i++)
        if (beside(file, path, length, other_files[i]) && ds_file_exists(file))
            return load_file(file, out);
    return ds_fail(DS_NOT_FOUND,
                   "%s: the folder holds none of tokenizer.json, encoder.json with vocab.bpe, "
                   "vocab.json with merges.txt, tokenizer.model, spiece.model, vocab.txt",
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
