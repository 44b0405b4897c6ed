/* Mixed precision and quantisation-aware training learn what f32 learns: a small model on real
 * text, byte by byte, a few hundred steps; the runs differ in their number formats alone. The text
 * is tinyshakespeare where it is there, else the project's own sources. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fts.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "deepseek/data.h"
#include "support/training_run.h"

static void add_text(ds_indexed_writer *w, const char *path) {
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(ds_file_read(path, (size_t)1 << 26, &text, &size), DS_OK);
    int32_t *ids = malloc(size * sizeof *ids);
    assert_non_null(ids);
    for (size_t i = 0; i < size; i++)
        ids[i] = (unsigned char)text[i];
    assert_int_equal(ds_indexed_writer_add_document(w, ids, size), DS_OK);
    free(ids);
    free(text);
}

static int by_name(const FTSENT **a, const FTSENT **b) {
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

/* The project's own programs, a megabyte: none is read twice in a run, and the last ones, which are
 * held back for validation, are written like the others. */
static void add_sources(ds_indexed_writer *w) {
    char folder[] = DS_TEST_DATA "/../../src";
    char *const folders[] = {folder, NULL};
    FTS *walk = fts_open(folders, FTS_PHYSICAL, by_name);
    assert_non_null(walk);
    for (const FTSENT *f; (f = fts_read(walk));)
        if (f->fts_info == FTS_F && ds_ends_with(f->fts_name, ".c"))
            add_text(w, f->fts_accpath);
    fts_close(walk);
}

static void make_text(const char *prefix) {
    ds_indexed_writer *w = NULL;
    assert_int_equal(ds_indexed_writer_open(prefix, 2, &w), DS_OK);
    if (ds_file_exists(DS_ASSETS "/text/tinyshakespeare.txt"))
        add_text(w, DS_ASSETS "/text/tinyshakespeare.txt");
    else
        add_sources(w);
    assert_int_equal(ds_indexed_writer_close(w), DS_OK);
}

/* What a run ends with: the training loss, averaged over its last steps since single batches
 * differ, and the validation loss. */
typedef struct outcome {
    double training, validation;
} outcome;

static outcome train(const char *folder, const char *corpus, const char *const precision[3]) {
    enum { LAST = 20 };
    const char *const overrides[] = {corpus,
                                     precision[0],
                                     precision[1],
                                     precision[2],
                                     "model.vocab_size=256",
                                     "model.hidden_size=64",
                                     "model.n_heads=4",
                                     "model.max_seq_len=64",
                                     "data.seq_len=64",
                                     "training.steps=300",
                                     "training.micro_batch=8",
                                     "training.eval_batches=40"};
    double *loss = NULL, *validation = NULL;
    outcome end = {0};
    run(folder, overrides, sizeof overrides / sizeof *overrides);
    const size_t n = recorded(folder, "loss", NULL, &loss);
    assert_int_equal(n, 300);
    for (size_t i = n - LAST; i < n; i++)
        end.training += loss[i] / LAST;
    assert_int_equal(recorded(folder, "validation/loss", NULL, &validation), 1);
    end.validation = validation[0];
    free(loss);
    free(validation);
    return end;
}

static void test_other_formats_end_where_f32_does(void **state) {
    (void)state;
    static const char *const f32[] = {"precision.mode=full", "precision.bf16=false",
                                      "precision.fp16=false"};
    static const struct {
        const char *folder, *precision[3];
    } runs[] = {
        {"bf16-text", {"precision.mode=mixed", "precision.bf16=true", "precision.fp16=false"}},
        {"fp16-text", {"precision.mode=mixed", "precision.bf16=false", "precision.fp16=true"}},
        {"qat-text", {"precision.mode=full", "precision.bf16=false", "quantization.mode=qat"}},
        {"qat-bf16-text", {"precision.mode=mixed", "precision.bf16=true", "quantization.mode=qat"}},
    };
    char path[512], corpus[600];
    make_text(file_in("", "text", path));
    snprintf(corpus, sizeof corpus, "data.train=%s", path);
    const outcome plain = train("f32-text", corpus, f32);
    assert_true(plain.validation < 4); /* a fresh model has ln 256 = 5.5 */
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        const outcome end = train(runs[i].folder, corpus, runs[i].precision);
        print_message("%s: training loss %.4f (f32 %.4f), validation loss %.4f (f32 %.4f)\n",
                      runs[i].folder, end.training, plain.training, end.validation,
                      plain.validation);
        assert_true(fabs(end.training - plain.training) <= 0.02);
        assert_true(fabs(end.validation - plain.validation) <= 0.02);
        assert_true(end.training != plain.training); /* it was another precision */
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_other_formats_end_where_f32_does)};
    return cmocka_run_group_tests(tests, make_corpus, remove_corpus);
}
