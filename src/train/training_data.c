/* What a run learns from: the tokenizer, and the loaders of training and validation data. Token
 * files are read where they lie. Text is tokenised once into the run folder, under a name that
 * follows from the text and the tokenizer, so that a run that goes on finds its tokens and a text
 * that was changed is tokenised anew. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/file.h"
#include "base/md5.h"
#include "base/text.h"
#include "data/encode.h"
#include "train/trainer.h"

/* ---- tokenizer --------------------------------------------------------------------------- */

/* The tokenizer.json in the folder of the first training data, or in that data if it is a folder;
 * "" where there is none. */
static void find_tokenizer(const ds_train_config *c, char out[PATH_MAX]) {
    const char *data = c->data.train.n > 0 ? c->data.train.items[0].path : "";
    const char *slash = strrchr(data, '/');
    const int folder = slash ? (int)(slash - data) + 1 : 0;
    snprintf(out, PATH_MAX, "%s/tokenizer.json", data);
    if (ds_folder_exists(data) && ds_file_exists(out))
        return;
    snprintf(out, PATH_MAX, "%.*stokenizer.json", folder, data);
    if (!ds_file_exists(out))
        *out = '\0';
}

/* Checkpoints carry a tokenizer.json. One of another kind is written as such into the run folder
 * first. */
static ds_status find_tokenizer_json(ds_trainer *t, const char *path) {
    snprintf(t->tokenizer_path, PATH_MAX, "%s", path);
    if (ds_folder_exists(path))
        snprintf(t->tokenizer_path, PATH_MAX, "%s/tokenizer.json", path);
    const bool is_pair = ds_ends_with(path, "encoder.json") || ds_ends_with(path, "vocab.json");
    if (ds_ends_with(t->tokenizer_path, ".json") && !is_pair && ds_file_exists(t->tokenizer_path))
        return DS_OK;
    DS_TRY(ds_folder_make(t->config->checkpoint.directory));
    snprintf(t->tokenizer_path, PATH_MAX, "%s/tokenizer.json", t->config->checkpoint.directory);
    return ds_tokenizer_save(t->tokenizer, t->tokenizer_path);
}

/* Without a word about it in the configuration, a new model's vocabulary is the tokenizer's; that
 * of a model from a folder is its own. */
static ds_status open_tokenizer(ds_trainer *t) {
    const ds_train_config *c = t->config;
    char path[PATH_MAX];
    if (c->data.tokenizer)
        snprintf(path, sizeof path, "%s", c->data.tokenizer);
    else
        find_tokenizer(c, path);
    if (!*path)
        return DS_OK;
    DS_TRY(ds_tokenizer_load(path, &t->tokenizer));
    const int64_t n = ds_tokenizer_vocab_size(t->tokenizer);
    if (c->model.vocab_size == DS_TRAIN_AUTO && !ds_folder_exists(c->model.preset))
        t->model.vocab_size = n;
    if (n > t->model.vocab_size)
        return ds_fail(DS_INVALID,
                       "%s: the tokenizer has %lld tokens, the model only %lld: set "
                       "model.vocab_size to %lld or more",
                       path, (long long)n, (long long)t->model.vocab_size, (long long)n);
    return find_tokenizer_json(t, path);
}

/* ---- text -------------------------------------------------------------------------------- */

/* A name for the tokens of this text: it changes with the text's path, size and time, and with the
 * tokenizer. */
static ds_status tokens_prefix(const ds_trainer *t, const char *path, char out[PATH_MAX]) {
    ds_text_source *source = NULL;
    int64_t size_bytes = 0, modified_ns = 0;
    char *vocabulary = NULL, digest[DS_MD5_HEX], absolute[PATH_MAX];
    size_t vocabulary_size = 0;
    DS_TRY(ds_text_source_open(path, &source));
    ds_text_source_progress(source, NULL, &size_bytes);
    modified_ns = ds_text_source_modified(source);
    ds_text_source_close(source);
    DS_TRY(ds_file_read(t->tokenizer_path, (size_t)256 << 20, &vocabulary, &vocabulary_size));
    ds_md5 *sum = NULL;
    const ds_status status = ds_md5_new(&sum);
    if (status == DS_OK) {
        const char *name = realpath(path, absolute) ? absolute : path;
        ds_md5_update(sum, name, strlen(name));
        ds_md5_update(sum, &size_bytes, sizeof size_bytes);
        ds_md5_update(sum, &modified_ns, sizeof modified_ns);
        ds_md5_update(sum, vocabulary, vocabulary_size);
        ds_md5_finish(sum, digest);
    }
    free(vocabulary);
    DS_TRY(status);
    snprintf(out, PATH_MAX, "%s/tokens/%.12s", t->config->checkpoint.directory, digest);
    return DS_OK;
}

/* Tokens of the text at `path`, made unless they are there; *prefix names them. */
static ds_status tokenise(ds_trainer *t, const char *path, char prefix[PATH_MAX]) {
    char index[PATH_MAX], folder[PATH_MAX], count[32];
    ds_encode_counts counts = {0};
    ds_indexed_writer *writer = NULL;
    DS_TRY(tokens_prefix(t, path, prefix));
    snprintf(index, sizeof index, "%s.idx", prefix);
    if (ds_file_exists(index))
        return DS_OK;
    snprintf(folder, sizeof folder, "%s/tokens", t->config->checkpoint.directory);
    DS_TRY(ds_folder_make(folder));
    const ds_encode_opts opts = {
        .end_token = ds_tokenizer_eos(t->tokenizer),
        .threads = t->config->threads == DS_TRAIN_AUTO ? 0 : t->config->threads,
    };
    ds_trainer_note(t, "tokenising %s", path);
    DS_TRY(ds_indexed_writer_open(prefix, ds_encode_token_bytes(t->tokenizer), &writer));
    const ds_status status =
        ds_encode_text(t->tokenizer, &path, 1, &opts, ds_encode_to_writer, writer, &counts);
    if (status != DS_OK) {
        ds_indexed_writer_abandon(writer);
        return status;
    }
    DS_TRY(ds_indexed_writer_close(writer));
    ds_trainer_note(t, "%s: %s tokens in %lld document%s", path,
                    ds_format_count(count, sizeof count, (double)counts.tokens),
                    (long long)counts.documents, counts.documents == 1 ? "" : "s");
    return DS_OK;
}

/* Whether the path means a pair of token files, by its ending or by what lies there. */
static bool is_token_file(const char *path) {
    static const char *const endings[] = {".idx", ".bin"};
    char with_ending[PATH_MAX];
    for (int i = 0; i < 2; i++) {
        snprintf(with_ending, sizeof with_ending, "%s%s", path, endings[i]);
        if (ds_ends_with(path, endings[i]) || ds_file_exists(with_ending))
            return true;
    }
    return false;
}

static bool is_there(const char *path) {
    return is_token_file(path) || ds_file_exists(path) || ds_folder_exists(path);
}

/* The token files that the loader reads for the path of a source. */
static ds_status find_tokens(ds_trainer *t, const char *path, char prefix[PATH_MAX]) {
    snprintf(prefix, PATH_MAX, "%s", path);
    if (is_token_file(path))
        return DS_OK;
    if (!is_there(path))
        return ds_fail(DS_NOT_FOUND,
                       "%s: no such file; expected a token file (%s.bin with %s.idx), or a text, "
                       "or a folder of texts",
                       path, path, path);
    if (t->tokenizer)
        return tokenise(t, path, prefix);
    ds_text_source *source = NULL;
    DS_TRY(ds_text_source_open(path, &source)); /* is there any? */
    ds_text_source_close(source);
    return ds_fail(DS_INVALID,
                   "%s is text: name a tokenizer for it by data.tokenizer (`deepseek-tokenize "
                   "train` makes one), or a token file made by `deepseek-tokenize encode`",
                   path);
}

/* The first of what the run reads that is not there; NULL: all is. */
static const char *find_missing(const ds_train_config *c) {
    const char *paths[] = {c->data.tokenizer, c->data.validation};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (paths[i] && !is_there(paths[i]))
            return paths[i];
    for (size_t i = 0; i < c->data.train.n; i++)
        if (!is_there(c->data.train.items[i].path))
            return c->data.train.items[i].path;
    return NULL;
}

/* ---- loaders ----------------------------------------------------------------------------- */

static ds_loader_opts loader_opts(const ds_trainer *t) {
    const ds_train_config *c = t->config;
    return (ds_loader_opts){
        .seq_len = t->seq_len,
        .vocab_size = t->model.vocab_size,
        .seed = (uint64_t)c->data.seed,
        .masked = c->data.task == DS_TRAIN_MASKED_LM,
        .mask_probability = c->data.mask_probability,
        .mask_token = t->tokenizer ? ds_tokenizer_find(t->tokenizer, "[MASK]") : -1,
        .cls_token = t->tokenizer ? ds_tokenizer_find(t->tokenizer, "[CLS]") : -1,
        .sep_token = t->tokenizer ? ds_tokenizer_find(t->tokenizer, "[SEP]") : -1,
        .sequential = !c->data.shuffle,
        .reset_positions = c->data.reset_positions,
    };
}

/* The training data, or where `validation`, what is held out of it. */
static ds_status open_train_sources(ds_trainer *t, bool validation, ds_loader **out) {
    const ds_train_config *c = t->config;
    const size_t n = c->data.train.n;
    ds_loader_source *sources = ds_calloc(n, sizeof *sources);
    char(*prefixes)[PATH_MAX] = ds_calloc(n, sizeof *prefixes);
    ds_status status = sources && prefixes ? DS_OK : DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < n && status == DS_OK; i++) {
        status = find_tokens(t, c->data.train.items[i].path, prefixes[i]);
        sources[i] =
            (ds_loader_source){.path = prefixes[i], .weight = c->data.train.items[i].weight};
    }
    if (status == DS_OK) {
        ds_loader_opts opts = loader_opts(t);
        opts.sources = sources;
        opts.n_sources = n;
        opts.validation_fraction = c->data.validation ? 0 : c->data.validation_fraction;
        opts.validation = validation;
        status = ds_loader_open(&opts, out);
    }
    free(prefixes);
    free(sources);
    return status;
}

static ds_status open_validation(ds_trainer *t) {
    const ds_train_config *c = t->config;
    if (!c->data.validation)
        return c->data.validation_fraction > 0 ? open_train_sources(t, true, &t->validation_data)
                                               : DS_OK;
    char prefix[PATH_MAX];
    DS_TRY(find_tokens(t, c->data.validation, prefix));
    const ds_loader_source source = {.path = prefix, .weight = 1};
    ds_loader_opts opts = loader_opts(t);
    opts.sources = &source;
    opts.n_sources = 1;
    return ds_loader_open(&opts, &t->validation_data);
}

/* Samples of text must be possible before the first step, not at the first sample. */
static ds_status check_samples(const ds_trainer *t) {
    static const char key[] = "training.sample_interval";
    const ds_train_config *c = t->config;
    const bool is_bert = t->model.architecture == DS_BERT, wanted = c->training.sample_interval > 0;
    if (is_bert && wanted)
        return ds_fail(DS_INVALID, "%s: an encoder writes no text; set it to 0", key);
    if (!t->tokenizer && wanted)
        return ds_fail(DS_INVALID,
                       "%s: samples need a tokenizer, and there is no tokenizer.json beside the "
                       "training data; name one by data.tokenizer, or set it to 0",
                       key);
    if (!c->training.sample_prompt || !t->tokenizer || is_bert)
        return DS_OK;
    int32_t *ids = NULL;
    size_t n = 0;
    DS_TRY(ds_tokenizer_encode(t->tokenizer, c->training.sample_prompt,
                               strlen(c->training.sample_prompt), &ids, &n));
    free(ids);
    if ((int64_t)n + 1 < t->model.max_seq_len) /* a mark goes before it */
        return DS_OK;
    return ds_fail(DS_INVALID, "training.sample_prompt: %zu tokens; the model reads up to %lld", n,
                   (long long)t->model.max_seq_len);
}

ds_status ds_trainer_open_data(ds_trainer *t) {
    const ds_train_config *c = t->config;
    if (c->data.train.n == 0)
        return ds_fail(DS_INVALID, "data.train is empty: name a text, or a token file made by "
                                   "`deepseek-tokenize encode`");
    const bool is_bert = t->model.architecture == DS_BERT;
    if (is_bert != (c->data.task == DS_TRAIN_MASKED_LM))
        return ds_fail(DS_INVALID, "data.task %s does not fit a %s model",
                       c->data.task == DS_TRAIN_MASKED_LM ? "masked_lm" : "causal_lm",
                       ds_architecture_name(t->model.architecture));
    t->missing_data = t->opts.plan_only ? find_missing(c) : NULL;
    if (t->missing_data)
        return DS_OK;
    DS_TRY(open_tokenizer(t));
    DS_TRY(check_samples(t));
    DS_TRY(open_train_sources(t, false, &t->train_data));
    return open_validation(t);
}
