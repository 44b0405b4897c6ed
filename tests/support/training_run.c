#include "training_run.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/md5.h"
#include "base/rng.h"
#include "deepseek/data.h"
#include "observe/runlog.h"

enum { TOKENS = 40000 };

static char root[] = "/tmp/ds-trainer-XXXXXX";
static char masked_tokenizer[128]; /* the override that names it */

static bool write_masked_vocabulary(void) {
    char path[64], lines[8 * (VOCAB + 8)];
    size_t n = 0;
    for (int i = 0; i < VOCAB; i++)
        n += (size_t)snprintf(lines + n, sizeof lines - n, "word%d\n", i);
    n += (size_t)snprintf(lines + n, sizeof lines - n, "[UNK]\n[CLS]\n[SEP]\n[MASK]\n");
    snprintf(path, sizeof path, "%s/vocab.txt", root);
    snprintf(masked_tokenizer, sizeof masked_tokenizer, "data.tokenizer=%s", path);
    return ds_file_replace(path, lines, n) == DS_OK;
}

void bert_overrides(const char *out[BERT_OVERRIDES]) {
    out[0] = "model.architecture=bert";
    out[1] = "model.vocab_size=auto";
    out[2] = masked_tokenizer;
}

int make_corpus(void **state) {
    (void)state;
    char path[64];
    static int32_t ids[TOKENS];
    if (!mkdtemp(root))
        return -1;
    for (int i = 1; i < TOKENS; i++) {
        const uint32_t r = ds_philox(5, (uint64_t)i, 0).word[0];
        ids[i] = r % 4 == 0 ? (int32_t)(r / 4 % VOCAB) : (ids[i - 1] * 7 + 3) % VOCAB;
    }
    snprintf(path, sizeof path, "%s/corpus", root);
    ds_indexed_writer *w = NULL;
    return write_masked_vocabulary() && ds_indexed_writer_open(path, 2, &w) == DS_OK &&
                   ds_indexed_writer_add_document(w, ids, TOKENS) == DS_OK &&
                   ds_indexed_writer_close(w) == DS_OK
               ? 0
               : -1;
}

int remove_corpus(void **state) {
    (void)state;
    return ds_folder_remove(root) == DS_OK ? 0 : -1;
}

void configure(const char *folder, const char *const *overrides, size_t n, ds_train_config *out) {
    char yaml[2048];
    snprintf(yaml, sizeof yaml,
             "model: {preset: tiny, vocab_size: %d, n_layers: 2, n_heads: 2, hidden_size: 32, "
             "max_seq_len: 32}\n"
             "data: {train: %s/corpus, validation_fraction: 0.05, seq_len: 32}\n"
             "precision: {mode: full}\n"
             "optimizer: {learning_rate: 3e-3}\n"
             "schedule: {warmup_steps: 5}\n"
             "training: {steps: 20, micro_batch: 4, eval_interval: 0, sample_interval: 0}\n"
             "checkpoint: {directory: %s/%s, interval: 0, async: false}\n"
             "threads: 2\n",
             VOCAB, root, root, folder);
    if (ds_train_config_parse("test", yaml, strlen(yaml), overrides, n, out) != DS_OK)
        fail_msg("%s", ds_error());
}

ds_trainer *open_trainer(const ds_train_config *config) {
    ds_trainer *t = NULL;
    if (ds_trainer_new(config, (ds_trainer_opts){.progress_fd = -1}, &t) != DS_OK)
        fail_msg("%s", ds_error());
    return t;
}

ds_trainer *open_speaking(const char *folder, const ds_train_config *config, FILE **said) {
    char path[512];
    ds_trainer *t = NULL;
    assert_int_equal(ds_folder_make(file_in(folder, "", path)), DS_OK);
    *said = fopen(file_in(folder, "said", path), "w+");
    assert_non_null(*said);
    const ds_trainer_opts opts = {.progress_fd = fileno(*said)};
    if (ds_trainer_new(config, opts, &t) != DS_OK)
        fail_msg("%s", ds_error());
    return t;
}

void run(const char *folder, const char *const *overrides, size_t n) {
    ds_train_config config;
    configure(folder, overrides, n, &config);
    ds_trainer *t = open_trainer(&config);
    if (ds_trainer_run(t) != DS_OK)
        fail_msg("%s", ds_error());
    assert_true(ds_trainer_finished(t));
    ds_trainer_free(t);
    ds_train_config_free(&config);
}

const char *file_in(const char *folder, const char *name, char out[512]) {
    snprintf(out, 512, "%s/%s/%s", root, folder, name);
    return out;
}

size_t recorded(const char *folder, const char *name, double **steps, double **values) {
    char path[512];
    double *own = NULL;
    size_t n = 0;
    assert_int_equal(ds_runlog_read(file_in(folder, "", path), name, &own, values, &n), DS_OK);
    if (steps)
        *steps = own;
    else
        free(own);
    return n;
}

size_t losses(const char *folder, double **values) {
    return recorded(folder, "loss", NULL, values);
}

void assert_same_checkpoint(const char *a, const char *b, int step) {
    static const char *const files[] = {"model.safetensors", "optimizer.safetensors"};
    for (int i = 0; i < 2; i++) {
        char path[512], name[128], x[DS_MD5_HEX], y[DS_MD5_HEX];
        snprintf(name, sizeof name, "checkpoints/step-%08d/%s", step, files[i]);
        assert_int_equal(ds_md5_of_file(file_in(a, name, path), x), DS_OK);
        assert_int_equal(ds_md5_of_file(file_in(b, name, path), y), DS_OK);
        assert_string_equal(x, y);
    }
}
