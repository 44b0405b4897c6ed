/* What a run learns from: token files and plain text, the tokenizer beside them, packed documents,
 * and samples without a prompt. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utime.h>

#include "base/file.h"
#include "base/rng.h"
#include "deepseek/data.h"
#include "deepseek/tokenizer.h"
#include "deepseek/train.h"
#include "observe/runlog.h"

enum { DOCUMENT = 16, DOCUMENTS = 200, VOCAB = 48 };

static char root[] = "/tmp/ds-data-XXXXXX";

static const char *at(const char *name) {
    static char paths[8][256];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static void write_file(const char *name, const char *text) {
    if (ds_file_replace(at(name), text, strlen(text)) != DS_OK)
        fail_msg("%s", ds_error());
}

/* A book of some 30 kB, and a tokenizer learned from it. */
static void write_book(void) {
    size_t n = 0;
    static char text[40000];
    for (int i = 1; i <= 400; i++)
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "In the year %d the king counted %d sheep, and he was glad.\n", i,
                              i * 7);
    assert_int_equal(ds_folder_make(at("library")), DS_OK);
    write_file("library/book.txt", text);
    ds_bpe_train_opts opts = DS_BPE_TRAIN_DEFAULTS;
    const char *const end[] = {"<|endoftext|>"}, *const files[] = {at("library/book.txt")};
    opts.vocab_size = 300;
    opts.special_tokens = end;
    opts.n_special = 1;
    ds_tokenizer *tok = NULL;
    assert_int_equal(ds_bpe_train(files, 1, &opts, &tok), DS_OK);
    assert_int_equal(ds_tokenizer_save(tok, at("library/tokenizer.json")), DS_OK);
    ds_tokenizer_free(tok);
}

static int make(void **state) {
    (void)state;
    if (!mkdtemp(root))
        return -1;
    ds_indexed_writer *w = NULL;
    assert_int_equal(ds_indexed_writer_open(at("documents"), 2, &w), DS_OK);
    for (int d = 0; d < DOCUMENTS; d++) {
        int32_t ids[DOCUMENT];
        for (int i = 0; i < DOCUMENT; i++)
            ids[i] = (int32_t)(ds_philox(5, (uint64_t)(d * DOCUMENT + i), 0).word[0] % VOCAB);
        assert_int_equal(ds_indexed_writer_add_document(w, ids, DOCUMENT), DS_OK);
    }
    assert_int_equal(ds_indexed_writer_close(w), DS_OK);
    write_book();
    return 0;
}

static int remove_all(void **state) {
    (void)state;
    return ds_folder_remove(root) == DS_OK ? 0 : -1;
}

static ds_status start(const char *folder, const char *const *overrides, size_t n,
                       ds_train_config *config, ds_trainer **out) {
    char yaml[2048];
    snprintf(yaml, sizeof yaml,
             "model: {preset: tiny, n_layers: 2, n_heads: 2, hidden_size: 32, max_seq_len: 32}\n"
             "data: {train: %s/documents, validation_fraction: 0, seq_len: 32, shuffle: false}\n"
             "precision: {mode: full}\n"
             "optimizer: {learning_rate: 1e-2}\n"
             "training: {steps: 6, micro_batch: 4, eval_interval: 0}\n"
             "checkpoint: {directory: %s/%s, interval: 0, async: false}\n"
             "threads: 2\n",
             root, root, folder);
    if (ds_train_config_parse("test", yaml, strlen(yaml), overrides, n, config) != DS_OK)
        fail_msg("%s", ds_error());
    return ds_trainer_new(config, (ds_trainer_opts){.progress_fd = -1}, out);
}

static void run(const char *folder, const char *const *overrides, size_t n) {
    ds_train_config config;
    ds_trainer *t = NULL;
    if (start(folder, overrides, n, &config, &t) != DS_OK || ds_trainer_run(t) != DS_OK)
        fail_msg("%s", ds_error());
    ds_trainer_free(t);
    ds_train_config_free(&config);
}

static void refused(const char *override, const char *message) {
    ds_train_config config;
    ds_trainer *t = NULL;
    const char *const overrides[] = {override, "training.sample_interval=0"};
    const int n = strncmp(override, "training", 8) == 0 ? 1 : 2;
    if (start("refused", overrides, (size_t)n, &config, &t) == DS_OK)
        fail_msg("accepted: %s", override);
    if (!strstr(ds_error(), message))
        fail_msg("%s says \"%s\", not \"%s\"", override, ds_error(), message);
    ds_train_config_free(&config);
}

static void read_losses(const char *folder, double losses[6]) {
    double *steps = NULL, *values = NULL;
    size_t n = 0;
    assert_int_equal(ds_runlog_read(at(folder), "loss", &steps, &values, &n), DS_OK);
    assert_int_equal(n, 6);
    memcpy(losses, values, 6 * sizeof *losses);
    free(steps);
    free(values);
}

/* Two documents a sample, and one: the same tokens in the same order, so the same losses, when
 * those that share a sample are kept apart. */
static void test_packed_documents_train_as_if_alone(void **state) {
    (void)state;
    static const char *const alone[] = {"data.seq_len=16", "training.micro_batch=8"};
    static const char *const apart[] = {"data.reset_positions=true", "data.mask_documents=true"};
    static const char *const architectures[] = {"model.architecture=gpt2",
                                                "model.architecture=llama"};
    for (int i = 0; i < 2; i++) {
        const char *a[] = {alone[0], alone[1], architectures[i], "checkpoint.resume=never"};
        const char *b[] = {apart[0], apart[1], architectures[i], "checkpoint.resume=never"};
        const char *c[] = {architectures[i], "checkpoint.resume=never"};
        const char *const folders[][3] = {{"alone-0", "apart-0", "joined-0"},
                                          {"alone-1", "apart-1", "joined-1"}};
        double want[6], got[6], joined[6];
        run(folders[i][0], a, 4);
        run(folders[i][1], b, 4);
        run(folders[i][2], c, 2);
        read_losses(folders[i][0], want);
        read_losses(folders[i][1], got);
        read_losses(folders[i][2], joined);
        for (int k = 0; k < 6; k++)
            if (fabs(want[k] - got[k]) > 2e-4)
                fail_msg("step %d: %.6f alone, %.6f packed", k + 1, want[k], got[k]);
        assert_true(fabs(want[5] - joined[5]) > 2e-4);
    }
}

/* The decay of wsd is the last tenth of the run unless decay_steps says otherwise. */
static void test_wsd_decays_over_the_last_tenth(void **state) {
    (void)state;
    static const char *const overrides[] = {"schedule.name=wsd", "training.steps=20",
                                            "schedule.min_lr_ratio=0", "optimizer.learning_rate=1"};
    double *steps = NULL, *rates = NULL;
    size_t n = 0;
    run("wsd", overrides, 4);
    assert_int_equal(ds_runlog_read(at("wsd"), "learning_rate", &steps, &rates, &n), DS_OK);
    assert_int_equal(n, 20);
    for (int i = 0; i <= 18; i++)
        assert_true(rates[i] == 1);
    assert_true(fabs(rates[19] - 0.5) < 1e-6);
    free(steps);
    free(rates);
}

static char *record(const char *folder) {
    char path[300], *text = NULL;
    snprintf(path, sizeof path, "%s/%s/metrics.jsonl", root, folder);
    assert_int_equal(ds_file_read(path, 1 << 20, &text, NULL), DS_OK);
    return text;
}

/* How many pairs of token files the run made. */
static int token_files(const char *folder) {
    char path[300];
    int n = 0;
    snprintf(path, sizeof path, "%s/%s/tokens", root, folder);
    DIR *listing = opendir(path);
    assert_non_null(listing);
    for (struct dirent *e; (e = readdir(listing));)
        n += strstr(e->d_name, ".idx") != NULL;
    closedir(listing);
    return n;
}

/* Text, the tokenizer beside it, and a sample without a prompt: nothing else is said. */
static void test_text_is_tokenised_into_the_run_folder(void **state) {
    (void)state;
    char train[300], seen[300];
    snprintf(train, sizeof train, "data.train=%s", at("library/book.txt"));
    const char *overrides[] = {train, "training.sample_interval=3", "data.tokenizer=null",
                               "checkpoint.interval=3"};
    run("text", overrides, 4);
    char *text = record("text");
    assert_non_null(strstr(text, "\"sample\""));
    free(text);
    assert_int_equal(token_files("text"), 1);
    snprintf(seen, sizeof seen, "%s/text/checkpoints/step-00000006/tokenizer.json", root);
    assert_true(ds_file_exists(seen)); /* found without being named */

    /* going on finds the tokens; a text that was written again does not */
    const char *more[] = {train, "training.steps=7"};
    run("text", more, 2);
    assert_int_equal(token_files("text"), 1);
    const struct utimbuf later = {2000000000, 2000000000};
    assert_int_equal(utime(at("library/book.txt"), &later), 0);
    const char *again[] = {train, "training.steps=8"};
    run("text", again, 2);
    assert_int_equal(token_files("text"), 2);

    snprintf(train, sizeof train, "data.train=%s", at("library"));
    run("folder", (const char *const[]){train}, 1);
    assert_int_equal(token_files("folder"), 1);
}

/* A tokenizer without a token that ends texts: samples begin as a document does. */
static void test_samples_begin_without_a_mark(void **state) {
    (void)state;
    char *json = NULL, train[300], tokenizer[300];
    ds_bpe_train_opts opts = DS_BPE_TRAIN_DEFAULTS;
    const char *const other[] = {"[OTHER]"}, *const files[] = {at("library/book.txt")};
    opts.vocab_size = 300;
    opts.special_tokens = other;
    opts.n_special = 1;
    ds_tokenizer *tok = NULL;
    assert_int_equal(ds_bpe_train(files, 1, &opts, &tok), DS_OK);
    assert_int_equal(ds_tokenizer_eos(tok), -1);
    assert_int_equal(ds_tokenizer_save(tok, at("unmarked.json")), DS_OK);
    ds_tokenizer_free(tok);
    snprintf(train, sizeof train, "data.train=%s", at("library/book.txt"));
    snprintf(tokenizer, sizeof tokenizer, "data.tokenizer=%s", at("unmarked.json"));
    run("unmarked",
        (const char *const[]){train, tokenizer, "training.sample_interval=6",
                              "data.validation_fraction=0"},
        4);
    json = record("unmarked");
    assert_non_null(strstr(json, "In the year 1 the")); /* the book's first words */
    free(json);
}

/* A model with more tokens than its tokenizer, as some have for speed: what it draws beyond is no
 * text, and no reason to end a run. */
static void test_samples_of_a_larger_vocabulary(void **state) {
    (void)state;
    char train[300];
    snprintf(train, sizeof train, "data.train=%s", at("library/book.txt"));
    const char *const overrides[] = {train, "model.vocab_size=4096", "training.sample_interval=2"};
    run("padded", overrides, 3);
    char *text = record("padded");
    assert_non_null(strstr(text, "\"sample\""));
    free(text);
}

static void test_what_is_not_there_is_named(void **state) {
    (void)state;
    char override[300];
    write_file("lonely.txt", "a text without a tokenizer\n");
    assert_int_equal(ds_folder_make(at("empty")), DS_OK);
    write_file("empty/picture.png", "none");
    snprintf(override, sizeof override, "data.train=%s", at("lonely.txt"));
    refused(override, "lonely.txt is text: name a tokenizer for it by data.tokenizer");
    snprintf(override, sizeof override, "data.train=%s", at("empty"));
    refused(override, "empty: no .txt, .jsonl, .txt.gz or .jsonl.gz file in it");
    refused("data.train=/nowhere", "/nowhere: no such file; expected a token file (/nowhere.bin "
                                   "with /nowhere.idx), or a text, or a folder of texts");
    refused("data.train=/nowhere.bin", "no such file");
    refused("training.sample_interval=5", "samples need a tokenizer");
    snprintf(override, sizeof override, "data={train: '%s', tokenizer: '%s/library'}", at("empty"),
             root);
    refused(override, "empty: no .txt, .jsonl, .txt.gz or .jsonl.gz file in it");
    snprintf(override, sizeof override, "training={sample_interval: 5, sample_prompt: '%040d'}", 1);
    char tokenizer[300];
    snprintf(tokenizer, sizeof tokenizer, "data.tokenizer=%s", at("library"));
    ds_train_config config;
    ds_trainer *t = NULL;
    const char *const overrides[] = {override, tokenizer, "model.vocab_size=300"};
    assert_int_equal(start("refused", overrides, 3, &config, &t), DS_INVALID);
    assert_non_null(strstr(ds_error(), "the model reads up to 32"));
    ds_train_config_free(&config);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packed_documents_train_as_if_alone),
        cmocka_unit_test(test_wsd_decays_over_the_last_tenth),
        cmocka_unit_test(test_text_is_tokenised_into_the_run_folder),
        cmocka_unit_test(test_samples_begin_without_a_mark),
        cmocka_unit_test(test_samples_of_a_larger_vocabulary),
        cmocka_unit_test(test_what_is_not_there_is_named),
    };
    return cmocka_run_group_tests(tests, make, remove_all);
}
