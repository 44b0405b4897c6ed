/* Loaders: every sample once per epoch, one order whatever the batch sizes, shares and seeks;
 * mixtures keep their shares; masked samples have BERT's form; unfit inputs are refused. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/rng.h"
#include "data/mixture.h"
#include "data/permutation.h"
#include "deepseek/data.h"

static char folder[] = "/tmp/ds-loader-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return ds_folder_remove(folder) == DS_OK ? 0 : -1;
}

/* A corpus whose token t is base + t, in documents of the given length. */
static const char *corpus(const char *name, int tokens, int document_length, int base) {
    static char paths[2][256];
    static int turn;
    char *path = paths[turn = !turn];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    ds_indexed_writer *w = NULL;
    assert_int_equal(ds_indexed_writer_open(path, 4, &w), DS_OK);
    for (int t = 0; t < tokens; t++) {
        const int32_t id = base + t;
        assert_int_equal(ds_indexed_writer_add_tokens(w, &id, 1), DS_OK);
        if ((t + 1) % document_length == 0)
            assert_int_equal(ds_indexed_writer_end_document(w), DS_OK);
    }
    assert_int_equal(ds_indexed_writer_close(w), DS_OK);
    return path;
}

static ds_loader_opts causal(int seq_len) {
    return (ds_loader_opts){.seq_len = seq_len, .vocab_size = 1 << 20, .seed = 42};
}

static ds_status open_loader(const ds_loader_source *sources, size_t n, const ds_loader_opts *opts,
                             ds_loader **out) {
    ds_loader_opts whole = *opts;
    whole.sources = sources;
    whole.n_sources = n;
    return ds_loader_open(&whole, out);
}

static ds_loader_opts masked(int seq_len) {
    ds_loader_opts opts = causal(seq_len);
    opts.masked = true;
    opts.cls_token = 900001, opts.sep_token = 900002;
    opts.mask_token = 900003, opts.pad_token = 900004;
    return opts;
}

static void test_permutations_hit_everything_once(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 7, 16, 17, 64, 65, 100, 1000, 4097};
    char seen[4097];
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (uint64_t key = 0; key < 5; key++) {
            memset(seen, 0, sizeof seen);
            for (int64_t i = 0; i < sizes[s]; i++) {
                const int64_t p = (int64_t)ds_permute(key, (uint64_t)i, (uint64_t)sizes[s]);
                assert_in_range(p, 0, sizes[s] - 1);
                assert_int_equal(seen[p]++, 0);
            }
        }
    const uint64_t large = ((uint64_t)1 << 40) + 12345;
    for (uint64_t i = 0; i < 1000; i++)
        assert_true(ds_permute(9, large - 1 - i, large) < large);
}

/* Shuffling has to look like chance: places are uniform (chi squared) and keys unlike each other.
 */
static void test_permutations_look_random(void **state) {
    (void)state;
    enum { KEYS = 20000 };
    static const int sizes[] = {5, 10, 20};
    for (int s = 0; s < 3; s++) {
        int counts[20] = {0}, n = sizes[s];
        for (uint64_t key = 0; key < KEYS; key++)
            counts[ds_permute(ds_mix64(key), 3, (uint64_t)n)]++;
        double chi2 = 0;
        for (int i = 0; i < n; i++)
            chi2 += pow(counts[i] - (double)KEYS / n, 2) / ((double)KEYS / n);
        assert_true(chi2 < n - 1 + 5 * sqrt(2.0 * (n - 1))); /* five standard deviations */
    }
    int fixed = 0;
    for (uint64_t i = 0; i < 10000; i++)
        fixed += ds_permute(5, i, 10000) == i;
    assert_true(fixed < 10); /* about one is expected */
}

static void test_mixtures_keep_their_shares(void **state) {
    (void)state;
    const double weights[] = {7, 2, 1, 1e-9};
    ds_mixture m;
    assert_int_equal(ds_mixture_init(&m, weights, 4), DS_OK);
    int64_t had[4] = {0};
    for (int64_t g = 0; g < 100000; g++) {
        size_t source = 9;
        int64_t index = -1;
        ds_mixture_at(&m, g, &source, &index);
        assert_int_equal(index, had[source]++);
        for (int s = 0; s < 3; s++)
            assert_true(fabs((double)had[s] - weights[s] / 10 * (double)(g + 1)) < 12);
    }
    assert_true(had[3] >= 6); /* never starved */
    ds_mixture_clear(&m);
    const double bad[] = {1, 0};
    assert_int_equal(ds_mixture_init(&m, bad, 2), DS_INVALID);
    assert_non_null(strstr(ds_error(), "source 1 has weight 0"));
}

static void test_each_sample_once_per_epoch(void **state) {
    (void)state;
    const char *d = corpus("epochs", 1003, 90, 0);
    const ds_loader_source source = {d, 1};
    for (int sequential = 0; sequential < 2; sequential++) {
        ds_loader_opts opts = causal(10);
        opts.sequential = sequential;
        ds_loader *l = NULL;
        assert_int_equal(open_loader(&source, 1, &opts, &l), DS_OK);
        const int64_t n = ds_loader_samples(l);
        assert_int_equal(n, sequential ? 100 : 99);
        int64_t firsts[3][3];
        for (int epoch = 0; epoch < 3; epoch++) {
            char seen[1003] = {0};
            for (int64_t i = 0; i < n; i++) {
                const ds_batch *b = NULL;
                assert_int_equal(ds_loader_next(l, 1, &b), DS_OK);
                if (i < 3)
                    firsts[epoch][i] = b->tokens[0];
                int64_t lap = -1, first = -1;
                ds_loader_where(l, b->first_sample, NULL, &lap, &first);
                assert_int_equal(lap, epoch);
                assert_int_equal(first, b->tokens[0]);
                assert_int_equal(b->n_predicted, 10);
                for (int t = 0; t < 10; t++) {
                    const int32_t id = b->tokens[t];
                    assert_int_equal(id, b->tokens[0] + t);
                    assert_int_equal(b->labels[t], id + 1);
                    assert_int_equal(b->positions[t], t);
                    assert_int_equal(b->documents[t], id / 90 - b->tokens[0] / 90);
                    assert_int_equal(seen[id]++, 0);
                }
            }
        }
        if (sequential)
            assert_int_equal(firsts[1][2], 20);
        else
            assert_memory_not_equal(firsts[0], firsts[1], sizeof firsts[0]);
        ds_loader_close(l);
    }
}

static void test_positions_can_start_anew(void **state) {
    (void)state;
    const char *d = corpus("positions", 100, 7, 0);
    const ds_loader_source source = {d, 1};
    ds_loader_opts opts = causal(20);
    opts.reset_positions = opts.sequential = true;
    ds_loader *l = NULL;
    const ds_batch *b = NULL;
    assert_int_equal(open_loader(&source, 1, &opts, &l), DS_OK);
    assert_int_equal(ds_loader_next(l, 1, &b), DS_OK);
    for (int t = 0; t < 20; t++) {
        assert_int_equal(b->positions[t], t % 7);
        assert_int_equal(b->documents[t], t / 7);
    }
    ds_loader_close(l);
}

/* The reference order, one sample at a time without a thread: rows of the first n samples. */
static int32_t *reference_rows(const ds_loader_source *sources, size_t n_sources,
                               ds_loader_opts opts, int n) {
    int32_t *rows = malloc(sizeof *rows * (size_t)(2 * n) * (size_t)opts.seq_len);
    ds_loader *l = NULL;
    const ds_batch *b = NULL;
    opts.no_prefetch = true;
    assert_int_equal(open_loader(sources, n_sources, &opts, &l), DS_OK);
    const size_t row = sizeof *rows * (size_t)opts.seq_len;
    for (int i = 0; i < n; i++) {
        assert_int_equal(ds_loader_next(l, 1, &b), DS_OK);
        memcpy(rows + 2 * i * opts.seq_len, b->tokens, row);
        memcpy(rows + (2 * i + 1) * opts.seq_len, b->labels, row);
    }
    ds_loader_close(l);
    return rows;
}

static void expect_rows(const ds_batch *b, const int32_t *rows) {
    const size_t row = sizeof *rows * (size_t)b->seq_len;
    for (int64_t i = 0; i < b->batch; i++) {
        const int32_t *want = rows + 2 * (b->first_sample + i) * b->seq_len;
        assert_memory_equal(b->tokens + i * b->seq_len, want, row);
        assert_memory_equal(b->labels + i * b->seq_len, want + b->seq_len, row);
    }
}

static void test_order_does_not_depend_on_batches(void **state) {
    (void)state;
    enum { SAMPLES = 700 };
    const char *a = corpus("order-a", 3000, 50, 0), *c = corpus("order-c", 900, 33, 5000);
    const ds_loader_source sources[] = {{a, 3}, {c, 1}};
    const ds_loader_opts both[] = {causal(16), masked(24)};
    for (int kind = 0; kind < 2; kind++) {
        ds_loader_opts opts = both[kind];
        int32_t *rows = reference_rows(sources, 2, opts, SAMPLES);
        ds_loader *l = NULL;
        const ds_batch *b = NULL;
        assert_int_equal(open_loader(sources, 2, &opts, &l), DS_OK);
        for (uint64_t call = 0; ds_loader_position(l) < SAMPLES - 40; call++) {
            const uint32_t chance = ds_philox(3, call, 0).word[0];
            const int size =
                call % 5 < 3 ? 8 : 1 + (int)(chance % 19); /* often alike, not always */
            assert_int_equal(ds_loader_next(l, size, &b), DS_OK);
            assert_int_equal(b->batch, size);
            expect_rows(b, rows);
        }
        for (uint64_t jump = 0; jump < 50; jump++) { /* seeks, and shares of up to 4 ranks */
            const int to = (int)(ds_philox(4, jump, 0).word[0] % (SAMPLES - 40));
            const int rank = (int)(jump % 4);
            assert_int_equal(ds_loader_seek(l, to), DS_OK);
            for (int step = 0; step < 2; step++) {
                assert_int_equal(ds_loader_next_share(l, 12, 3 * rank, 3, &b), DS_OK);
                assert_int_equal(b->first_sample, to + 12 * step + 3 * rank);
                expect_rows(b, rows);
            }
            assert_int_equal(ds_loader_position(l), to + 24);
        }
        assert_int_equal(ds_loader_next_share(l, 4, 4, 0, &b), DS_OK);
        assert_int_equal(b->batch, 0);
        assert_int_equal(ds_loader_next_share(l, 4, 2, 3, &b), DS_INVALID);
        assert_int_equal(ds_loader_next(l, 0, &b), DS_INVALID);
        assert_int_equal(ds_loader_seek(l, -1), DS_INVALID);
        ds_loader_close(l);
        free(rows);
    }
}

static void test_splits_do_not_overlap(void **state) {
    (void)state;
    static const struct {
        int tokens, document_length;
        double fraction;
        int cut;
    } cases[] = {
        {1000, 1000, 0.1, 900}, /* one document: cut in its middle */
        {1000, 30, 0.1, 900},   /* a document starts just there */
        {1000, 40, 0.1, 920},   /* the next document start */
        {1000, 90, 0.05, 950},  /* the next one would leave too little */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *d = corpus("split", cases[i].tokens, cases[i].document_length, 0);
        const ds_loader_source source = {d, 1};
        for (int validation = 0; validation < 2; validation++) {
            ds_loader_opts opts = causal(5);
            opts.validation = validation;
            opts.validation_fraction = cases[i].fraction;
            ds_loader *l = NULL;
            const ds_batch *b = NULL;
            assert_int_equal(open_loader(&source, 1, &opts, &l), DS_OK);
            int least = INT32_MAX, most = 0;
            for (int64_t n = 0; n < 3 * ds_loader_samples(l); n++) {
                assert_int_equal(ds_loader_next(l, 1, &b), DS_OK);
                least = b->tokens[0] < least ? b->tokens[0] : least;
                most = b->labels[4] > most ? b->labels[4] : most;
            }
            if (!validation)
                assert_true(most < cases[i].cut && most > cases[i].cut - 12);
            else
                assert_true(least >= cases[i].cut && least < cases[i].cut + 12);
            ds_loader_close(l);
        }
    }
}

static void test_masked_samples_have_berts_form(void **state) {
    (void)state;
    enum { SEQ = 128, BATCH = 50, BATCHES = 40 };
    const char *d = corpus("masked", 100000, 1000, 0);
    const ds_loader_source source = {d, 1};
    ds_loader_opts opts = masked(SEQ);
    opts.single_span = true;
    ds_loader *l = NULL;
    const ds_batch *b = NULL;
    assert_int_equal(open_loader(&source, 1, &opts, &l), DS_OK);
    double chosen = 0, masks = 0, kept = 0, all = 0;
    for (int k = 0; k < BATCHES; k++) {
        assert_int_equal(ds_loader_next(l, BATCH, &b), DS_OK);
        int64_t predicted = 0;
        for (int i = 0; i < BATCH; i++) {
            int64_t first = -1;
            ds_loader_where(l, b->first_sample + i, NULL, NULL, &first);
            const int32_t *tokens = b->tokens + i * SEQ, *labels = b->labels + i * SEQ;
            assert_int_equal(tokens[0], opts.cls_token);
            assert_int_equal(tokens[SEQ - 1], opts.sep_token);
            assert_int_equal(b->lengths[i], SEQ);
            assert_int_equal(b->next_sentence[i], DS_LABEL_IGNORED);
            for (int t = 1; t < SEQ - 1; t++, all++) {
                if (labels[t] == DS_LABEL_IGNORED) {
                    assert_int_equal(tokens[t], first + t - 1);
                    continue;
                }
                assert_int_equal(labels[t], first + t - 1);
                predicted++;
                masks += tokens[t] == opts.mask_token;
                kept += tokens[t] == labels[t];
            }
        }
        assert_int_equal(predicted, b->n_predicted);
        chosen += (double)predicted;
    }
    assert_true(fabs(chosen / all - 0.15) < 0.005);
    assert_true(fabs(masks / chosen - 0.8) < 0.015);
    assert_true(fabs(kept / chosen - 0.1) < 0.015);
    ds_loader_close(l);
}

/* Undoes the disguise of a row. */
static int32_t true_token(const ds_batch *b, int i, int t) {
    const int32_t label = b->labels[i * b->seq_len + t];
    return label == DS_LABEL_IGNORED ? b->tokens[i * b->seq_len + t] : label;
}

static void test_pairs_follow_or_do_not(void **state) {
    (void)state;
    enum { SEQ = 64, SAMPLES = 2000, DOCUMENT = 100 };
    const char *d = corpus("pairs", 50000, DOCUMENT, 0);
    const ds_loader_source source = {d, 1};
    ds_loader_opts opts = masked(SEQ);
    ds_loader *l = NULL;
    const ds_batch *b = NULL;
    assert_int_equal(open_loader(&source, 1, &opts, &l), DS_OK);
    assert_int_equal(ds_loader_next(l, SAMPLES, &b), DS_OK);
    int follow = 0;
    for (int i = 0; i < SAMPLES; i++) {
        const int length = b->lengths[i];
        int middle = 1;
        while (true_token(b, i, middle) != opts.sep_token)
            middle++;
        assert_int_equal(true_token(b, i, length - 1), opts.sep_token);
        const int a = true_token(b, i, 1), second = true_token(b, i, middle + 1);
        assert_int_equal(a / DOCUMENT, true_token(b, i, middle - 1) / DOCUMENT);
        assert_int_equal(second / DOCUMENT, true_token(b, i, length - 2) / DOCUMENT);
        follow += b->next_sentence[i] == 0;
        if (b->next_sentence[i] == 0)
            assert_int_equal(second, true_token(b, i, middle - 1) + 1);
        else
            assert_int_not_equal(second / DOCUMENT, a / DOCUMENT);
        for (int t = 0; t < SEQ; t++) {
            assert_int_equal(b->segment_ids[i * SEQ + t], t > middle && t < length);
            if (t >= length)
                assert_int_equal(b->tokens[i * SEQ + t], opts.pad_token);
            if (t >= length)
                assert_int_equal(b->labels[i * SEQ + t], DS_LABEL_IGNORED);
        }
    }
    assert_true(abs(follow - SAMPLES / 2) < 120);
    ds_loader_close(l);
}

static void expect_refusal(const ds_loader_source *sources, size_t n, ds_loader_opts opts,
                           const char *message) {
    ds_loader *l = NULL;
    assert_int_equal(open_loader(sources, n, &opts, &l), DS_INVALID);
    assert_null(l);
    if (!strstr(ds_error(), message))
        fail_msg("\"%s\" lacks \"%s\"", ds_error(), message);
}

static void test_unfit_inputs_are_refused(void **state) {
    (void)state;
    const char *d = corpus("unfit", 100, 10, 0);
    const ds_loader_source source = {d, 1}, weightless = {d, 0};
    ds_loader_opts opts = causal(10);
    expect_refusal(&source, 0, opts, "no data source");
    expect_refusal(&weightless, 1, opts, "unfit: weight 0");
    opts.vocab_size = 100;
    ds_loader *l = NULL;
    assert_int_equal(open_loader(&source, 1, &opts, &l), DS_OK);
    ds_loader_close(l);
    opts.vocab_size = 99;
    expect_refusal(&source, 1, opts, "unfit.bin: token 99 (document 9, position 9) is id 99");
    opts.vocab_size = 0;
    expect_refusal(&source, 1, opts, "vocab_size 0");
    opts = causal(0);
    expect_refusal(&source, 1, opts, "samples of 0 tokens");
    opts = causal(100);
    expect_refusal(&source, 1, opts,
                   "unfit.bin: its training part has 100 tokens; one sample of 100 needs 101");
    opts = causal(50);
    opts.validation_fraction = 0.1; /* one sample is held out, and leaves too little */
    expect_refusal(&source, 1, opts, "its training part has 49 tokens");
    opts.validation = true;
    assert_int_equal(open_loader(&source, 1, &opts, &l), DS_OK);
    ds_loader_close(l);
    opts.validation_fraction = 1;
    expect_refusal(&source, 1, opts, "validation_fraction 1");
    opts.validation_fraction = NAN;
    expect_refusal(&source, 1, opts, "validation_fraction");
    opts = masked(16);
    opts.mask_token = -1;
    expect_refusal(&source, 1, opts, "[MASK], [CLS] and [SEP]");
    opts = masked(16);
    opts.mask_probability = 1.5;
    expect_refusal(&source, 1, opts, "mask_probability 1.5");
    opts = masked(16);
    opts.vocab_size = 900004;
    expect_refusal(&source, 1, opts, "[PAD] is 900004");
    expect_refusal(&source, 1, masked(7), "at least 8 tokens");
}

static void test_tiny_corpora_work(void **state) {
    (void)state;
    for (int tokens = 11; tokens < 60; tokens++) {
        const char *d = corpus("tiny", tokens, tokens % 7 + 1, 0);
        const ds_loader_source source = {d, 1};
        for (int kind = 0; kind < 3; kind++) {
            ds_loader_opts opts = kind ? masked(10) : causal(10);
            opts.single_span = kind == 2;
            ds_loader *l = NULL;
            const ds_batch *b = NULL;
            assert_int_equal(open_loader(&source, 1, &opts, &l), DS_OK);
            for (int i = 0; i < 20; i++) {
                assert_int_equal(ds_loader_next(l, 3, &b), DS_OK);
                assert_true(b->n_predicted >= 3);
            }
            ds_loader_close(l);
        }
    }
}

static void test_allocation_failures_are_reported(void **state) {
    (void)state;
    const char *d = corpus("memory", 1000, 10, 0);
    const ds_loader_source source = {d, 1};
    const ds_loader_opts opts = causal(10);
    for (int n = 1; n < 40; n++) {
        ds_loader *l = NULL;
        const ds_batch *b = NULL;
        ds_fault_arm(DS_FAULT_ALLOC, n);
        ds_status status = open_loader(&source, 1, &opts, &l);
        for (int i = 0; i < 4 && status == DS_OK; i++)
            status = ds_loader_next(l, 8 << i, &b);
        ds_fault_arm(DS_FAULT_ALLOC, 0);
        if (status == DS_OK && n > 20) {
            ds_loader_close(l);
            return;
        }
        if (status != DS_OK) {
            assert_int_equal(status, DS_OUT_OF_MEMORY);
            if (l) { /* the loader is still good */
                assert_int_equal(ds_loader_next(l, 8, &b), DS_OK);
                assert_int_equal(b->batch, 8);
            }
        }
        ds_loader_close(l);
    }
    fail();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_permutations_hit_everything_once),
        cmocka_unit_test(test_permutations_look_random),
        cmocka_unit_test(test_mixtures_keep_their_shares),
        cmocka_unit_test(test_each_sample_once_per_epoch),
        cmocka_unit_test(test_positions_can_start_anew),
        cmocka_unit_test(test_order_does_not_depend_on_batches),
        cmocka_unit_test(test_splits_do_not_overlap),
        cmocka_unit_test(test_masked_samples_have_berts_form),
        cmocka_unit_test(test_pairs_follow_or_do_not),
        cmocka_unit_test(test_unfit_inputs_are_refused),
        cmocka_unit_test(test_tiny_corpora_work),
        cmocka_unit_test(test_allocation_failures_are_reported),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
