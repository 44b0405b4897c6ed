/* Learning a vocabulary and encoding with it:
 *     bench_tokenize TEXT TOKENIZER [--threads N]  < CASES
 * A case is a line; each is answered by one line of JSON:
 *     train N    learns a byte-level BPE vocabulary of N tokens from the file TEXT, by all threads
 *     encode     encodes TEXT by TOKENIZER on one core, a piece of some 4 KiB after the other
 * Prints "ready" first (bench_in_turn). */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "deepseek/tokenizer.h"
#include "support.h"

enum { PIECE_BYTES = 4096 }; /* at least, up to the end of the line */

typedef struct bench {
    const char *path;
    char *text;
    size_t size;
    ds_tokenizer *tokenizer;
    int threads;
} bench;

/* tokens: of the vocabulary, or of the text. */
static void print_case(const bench *b, const char *name, int64_t tokens, double seconds) {
    printf("{\"who\": \"ours\", \"case\": \"%s\", \"bytes\": %zu, \"tokens\": %lld, "
           "\"seconds\": %.6f}\n",
           name, b->size, (long long)tokens, seconds);
}

static void run_train(const bench *b, int64_t vocab_size) {
    static const char *const specials[] = {"<|endoftext|>"};
    ds_bpe_train_opts opts = DS_BPE_TRAIN_DEFAULTS;
    ds_tokenizer *learned = NULL;
    opts.vocab_size = vocab_size;
    opts.special_tokens = specials;
    opts.n_special = 1;
    opts.threads = b->threads;
    const double start = ds_clock_s();
    check(ds_bpe_train(&b->path, 1, &opts, &learned));
    print_case(b, "train", ds_tokenizer_vocab_size(learned), ds_clock_s() - start);
    ds_tokenizer_free(learned);
}

static size_t piece_size(const bench *b, size_t at) {
    if (b->size - at <= PIECE_BYTES)
        return b->size - at;
    const char *from = b->text + at,
               *end = memchr(from + PIECE_BYTES, '\n', b->size - at - PIECE_BYTES);
    return end ? (size_t)(end + 1 - from) : b->size - at;
}

static void run_encode(const bench *b) {
    int64_t tokens = 0;
    const double start = ds_clock_s();
    for (size_t at = 0, size; at < b->size; at += size) {
        int32_t *ids = NULL;
        size_t n = 0;
        size = piece_size(b, at);
        check(ds_tokenizer_encode(b->tokenizer, b->text + at, size, &ids, &n));
        tokens += (int64_t)n;
        free(ids);
    }
    print_case(b, "encode", tokens, ds_clock_s() - start);
}

static bool run_case(void *context, const char *line) {
    const bench *b = context;
    char name[16] = "";
    long long n = 0;
    const int found = sscanf(line, "%15s %lld", name, &n);
    if (found == 2 && n > 0 && strcmp(name, "train") == 0)
        run_train(b, n);
    else if (found == 1 && strcmp(name, "encode") == 0)
        run_encode(b);
    else
        return false;
    return true;
}

int main(int argc, char **argv) {
    static const struct option options[] = {{"threads", required_argument, NULL, 't'}, {0}};
    bench b = {0};
    bool usable = true;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
        if (o == 't')
            b.threads = atoi(optarg);
        else
            usable = false;
    if (!usable || optind + 2 != argc) {
        fputs("usage: bench_tokenize TEXT TOKENIZER [--threads N]\n", stderr);
        return 2;
    }
    b.path = argv[optind];
    check(ds_file_read(b.path, (size_t)1 << 30, &b.text, &b.size));
    check(ds_tokenizer_load(argv[optind + 1], &b.tokenizer));
    const int failed = answer_cases(run_case, &b);
    ds_tokenizer_free(b.tokenizer);
    free(b.text);
    return failed;
}
