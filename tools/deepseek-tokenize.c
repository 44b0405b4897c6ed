/* deepseek-tokenize: learns a vocabulary from text, turns text into token files for training, and
 * token ids back into text. */
#include <errno.h>
#include <getopt.h>
#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/text.h"
#include "deepseek/data.h"
#include "deepseek/tokenizer.h"

#define BATCH_PIECES 64                 /* documents encoded at once, one per thread */
#define BATCH_BYTES  ((size_t)64 << 20) /* but no more text than this */
#define STDIN_LIMIT  ((size_t)1 << 30)

static const char usage[] =
    "deepseek-tokenize: between text and the token ids that a model reads\n"
    "\n"
    "  deepseek-tokenize train  --vocab-size N -o tokenizer.json FILES…\n"
    "  deepseek-tokenize encode --tokenizer tokenizer.json -o PREFIX FILES…\n"
    "  deepseek-tokenize encode --tokenizer tokenizer.json --stdout [FILES…]\n"
    "  deepseek-tokenize decode --tokenizer tokenizer.json [IDS…]\n"
    "\n"
    "FILES are .txt (one document each), .jsonl (one document a line, under \"text\"), either "
    "with\n"
    ".gz, or folders that hold such files.\n"
    "\n"
    "train learns a byte-level BPE vocabulary, the kind GPT-2 and Llama 3 have. Any text can be\n"
    "encoded with it. The result depends on the text only.\n"
    "  --vocab-size N      how many tokens (default 32000). More tokens: shorter sequences, "
    "larger\n"
    "                      embedding. 8000 suits a few MB of text, 32000 some 100 MB.\n"
    "  -o, --output FILE   where the tokenizer goes (default tokenizer.json)\n"
    "  --special TOKEN     a mark for the model; may be given several times\n"
    "                      (default <|endoftext|>)\n"
    "  --min-count N       merge only pairs seen this often (default 2)\n"
    "  --pattern REGEX     how text falls into words (default: GPT-2's)\n"
    "  --threads N         default: all; the result is the same\n"
    "\n"
    "encode writes PREFIX.bin and PREFIX.idx, Megatron-LM's format, which deepseek-train reads.\n"
    "Every document ends with the token that ends a text, if the tokenizer has one.\n"
    "  --tokenizer PATH    a tokenizer.json, a folder with one, encoder.json beside vocab.bpe, or "
    "a\n"
    "                      llama2.c tokenizer.bin (default tokenizer.json)\n"
    "  -o, --output PREFIX where the tokens go\n"
    "  --stdout            print ids instead, a line per document; reads stdin if there are no "
    "FILES\n"
    "  --plain             special tokens spelled out in the text are ordinary text\n"
    "  --no-end            no token at the end of a document\n"
    "  --threads N         default: all\n"
    "\n"
    "decode prints the text of ids: those given, or from stdin.\n"
    "\n"
    "Example, from a text to what training needs:\n"
    "  deepseek-tokenize train --vocab-size 8000 -o tokenizer.json book.txt\n"
    "  deepseek-tokenize encode --tokenizer tokenizer.json -o data/book book.txt\n";

typedef struct options {
    const char *output, *tokenizer;
    const char *specials[64];
    size_t n_specials;
    ds_bpe_train_opts train;
    bool to_stdout, plain, no_end;
    int threads;
    char **files;
    int n_files;
} options;

static int complain(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("deepseek-tokenize: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return 1;
}

static int failed(void) {
    return complain("%s", ds_error());
}

/* ---- Progress ----------------------------------------------------------------------------- */

/* One line on stderr, drawn over, if that is a terminal. */
typedef struct meter {
    const char *stage;
    double start_s, drawn_s;
    bool live;
} meter;

static void meter_show(meter *m, const char *stage, int64_t done, int64_t total, bool bytes) {
    const double now = ds_clock_s();
    if (!m->stage || strcmp(m->stage, stage) != 0)
        *m = (meter){.stage = stage, .start_s = now, .live = isatty(STDERR_FILENO)};
    if (!m->live || (now - m->drawn_s < 0.1 && done < total))
        return;
    m->drawn_s = now;
    const double spent = now - m->start_s;
    const double rate = spent > 0 ? (double)done / spent : 0;
    char of[32], per[32], left[32];
    if (bytes) {
        ds_format_bytes(of, sizeof of, (double)total);
        ds_format_bytes(per, sizeof per, rate);
    } else {
        ds_format_count(of, sizeof of, (double)total);
        ds_format_count(per, sizeof per, rate);
    }
    ds_format_duration(left, sizeof left, rate > 0 ? (double)(total - done) / rate : 0);
    fprintf(stderr, "\r\033[K%s  %3.0f %% of %s  %s/s  %s left", stage,
            total > 0 ? 100.0 * (double)done / (double)total : 100.0, of, per, left);
}

static void meter_end(meter *m) {
    if (m->live)
        fputs("\r\033[K", stderr);
}

/* ---- train -------------------------------------------------------------------------------- */

static bool show_training(void *context, const char *stage, int64_t done, int64_t total) {
    meter_show(context, stage, done, total, strcmp(stage, "counting words") == 0);
    return true;
}

static int run_train(options *o) {
    static const char *const end_of_text[] = {"<|endoftext|>"};
    if (o->n_files == 0)
        return complain("train needs files to learn from; see deepseek-tokenize --help");
    meter m = {0};
    o->train.special_tokens = o->n_specials ? o->specials : end_of_text;
    o->train.n_special = o->n_specials ? o->n_specials : 1;
    o->train.threads = o->threads;
    o->train.progress = show_training;
    o->train.progress_context = &m;
    const char *output = o->output ? o->output : "tokenizer.json";
    const double start = ds_clock_s();
    ds_tokenizer *tok = NULL;
    ds_status status =
        ds_bpe_train((const char *const *)o->files, (size_t)o->n_files, &o->train, &tok);
    meter_end(&m);
    if (status == DS_OK)
        status = ds_tokenizer_save(tok, output);
    if (status == DS_OK) {
        char time[32];
        fprintf(stderr, "%s: %lld tokens, learned in %s\n", output,
                (long long)ds_tokenizer_vocab_size(tok),
                ds_format_duration(time, sizeof time, ds_clock_s() - start));
        if (ds_tokenizer_vocab_size(tok) < o->train.vocab_size)
            fprintf(stderr,
                    "fewer than the %lld asked for: no other pair occurs %lld times; more "
                    "text would give more\n",
                    (long long)o->train.vocab_size, (long long)o->train.min_count);
    }
    ds_tokenizer_free(tok);
    return status == DS_OK ? 0 : failed();
}

/* ---- encode ------------------------------------------------------------------------------- */

typedef struct piece {
    char *text;
    size_t length;
    bool continues; /* the next piece belongs to the same document */
    int32_t *ids;
    size_t n;
    ds_status status;
    char error[512];
} piece;

typedef struct encoder {
    const options *o;
    const ds_tokenizer *tok;
    ds_indexed_writer *writer; /* NULL: ids go to stdout */
    piece pieces[BATCH_PIECES];
    size_t n_pieces, batch_bytes;
    int32_t end; /* -1: none */
    int64_t bytes, tokens, documents;
    meter meter;
} encoder;

static void print_ids(const int32_t *ids, size_t n, bool ends) {
    for (size_t i = 0; i < n; i++)
        printf("%d ", ids[i]);
    if (ends)
        putchar('\n');
}

static ds_status write_ids(encoder *e, const int32_t *ids, size_t n) {
    e->tokens += (int64_t)n;
    if (e->writer)
        return ds_indexed_writer_add_tokens(e->writer, ids, n);
    print_ids(ids, n, false);
    return DS_OK;
}

static ds_status write_piece(encoder *e, const piece *p) {
    ds_status status = write_ids(e, p->ids, p->n);
    if (status != DS_OK || p->continues)
        return status;
    e->documents++;
    if (e->end >= 0)
        status = write_ids(e, &e->end, 1);
    if (!e->writer)
        putchar('\n');
    return status == DS_OK && e->writer ? ds_indexed_writer_end_document(e->writer) : status;
}

static void encode_piece(const encoder *e, piece *p) {
    p->status = e->o->plain ? ds_tokenizer_encode_plain(e->tok, p->text, p->length, &p->ids, &p->n)
                            : ds_tokenizer_encode(e->tok, p->text, p->length, &p->ids, &p->n);
    if (p->status != DS_OK) /* the message belongs to this thread */
        snprintf(p->error, sizeof p->error, "%s", ds_error());
}

/* Encodes the pieces gathered, all at once, and writes them in order. False after a failure. */
static bool flush(encoder *e) {
    bool good = true;
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < e->n_pieces; i++)
        encode_piece(e, &e->pieces[i]);
    for (size_t i = 0; i < e->n_pieces; i++) {
        piece *p = &e->pieces[i];
        if (good && p->status != DS_OK)
            good = complain("%s", p->error) == 0;
        if (good && write_piece(e, p) != DS_OK)
            good = failed() == 0;
        e->bytes += (int64_t)p->length;
        free(p->text);
        free(p->ids);
    }
    e->n_pieces = 0;
    e->batch_bytes = 0;
    return good;
}

static bool encode_file(encoder *e, const char *path) {
    ds_text_source *source = NULL;
    if (ds_text_source_open(path, &source) != DS_OK)
        return failed() == 0;
    bool good = true;
    while (good) {
        const char *text = NULL;
        size_t length = 0;
        if (ds_text_source_next(source, &text, &length) != DS_OK) {
            good = failed() == 0;
            break;
        }
        if (!text)
            break;
        piece *p = &e->pieces[e->n_pieces];
        *p = (piece){.length = length, .continues = ds_text_source_continues(source)};
        p->text = malloc(length);
        if (!p->text) {
            good = complain("out of memory") == 0;
            break;
        }
        memcpy(p->text, text, length);
        e->n_pieces++;
        e->batch_bytes += length;
        if (e->n_pieces == BATCH_PIECES || e->batch_bytes >= BATCH_BYTES)
            good = flush(e);
        int64_t done = 0, total = 0;
        ds_text_source_progress(source, &done, &total);
        meter_show(&e->meter, path, done, total, true);
    }
    ds_text_source_close(source);
    return good;
}

static char *read_stdin(size_t *length) {
    ds_text all = {0};
    char buffer[65536];
    size_t n;
    ds_text_puts(&all, "");
    while ((n = fread(buffer, 1, sizeof buffer, stdin)) > 0 && all.length < STDIN_LIMIT)
        ds_text_append(&all, buffer, n);
    *length = all.length;
    return ds_text_take(&all);
}

static bool encode_stdin(encoder *e) {
    piece p = {.text = read_stdin(&p.length)};
    if (!p.text)
        return failed() == 0;
    encode_piece(e, &p);
    if (p.status == DS_OK)
        print_ids(p.ids, p.n, true);
    else
        complain("%s", p.error);
    free(p.text);
    free(p.ids);
    return p.status == DS_OK;
}

static int run_encode(options *o, const ds_tokenizer *tok) {
    if (!o->output == !o->to_stdout)
        return complain("encode needs -o PREFIX or --stdout");
    if (o->n_files == 0 && o->output)
        return complain("encode needs files to read; see deepseek-tokenize --help");
    if (o->threads > 0)
        omp_set_num_threads(o->threads);
    encoder *e = calloc(1, sizeof *e);
    if (!e)
        return complain("out of memory");
    e->o = o;
    e->tok = tok;
    /* ids on stdout are those of the text, so that decode gives the text back */
    e->end = o->no_end || o->to_stdout ? -1 : ds_tokenizer_eos(tok);
    const double start = ds_clock_s();
    const int token_bytes = ds_tokenizer_vocab_size(tok) <= 65536 ? 2 : 4;
    bool good = !o->output || ds_indexed_writer_open(o->output, token_bytes, &e->writer) == DS_OK ||
                failed() == 0;
    if (o->n_files == 0)
        good = good && encode_stdin(e);
    for (int i = 0; i < o->n_files && good; i++)
        good = encode_file(e, o->files[i]);
    good = flush(e) && good;
    meter_end(&e->meter);
    if (good && e->writer) {
        good = ds_indexed_writer_close(e->writer) == DS_OK || failed() == 0;
        const double spent = ds_clock_s() - start;
        char count[32], rate[32], time[32];
        if (good)
            fprintf(stderr,
                    "%s.bin, .idx: %s tokens in %lld document%s, %.2f bytes a token; %s, %s/s\n",
                    o->output, ds_format_count(count, sizeof count, (double)e->tokens),
                    (long long)e->documents, e->documents == 1 ? "" : "s",
                    e->tokens ? (double)e->bytes / (double)e->tokens : 0.0,
                    ds_format_duration(time, sizeof time, spent),
                    ds_format_bytes(rate, sizeof rate, (double)e->bytes / spent));
        if (good && e->end < 0 && !o->no_end)
            fputs("the tokenizer has no token that ends a text: documents end without a mark\n",
                  stderr);
    } else {
        ds_indexed_writer_abandon(e->writer);
    }
    free(e);
    return good ? 0 : 1;
}

/* ---- decode ------------------------------------------------------------------------------- */

static bool parse_ids(char *text, int32_t **ids, size_t *n) {
    static const char between[] = " ,\t\r\n[]";
    size_t capacity = 0;
    char *rest = NULL;
    for (char *word = strtok_r(text, between, &rest); word; word = strtok_r(NULL, between, &rest)) {
        char *end = NULL;
        errno = 0;
        const long id = strtol(word, &end, 10);
        if (*end || errno || id < 0 || id > INT32_MAX) {
            complain("\"%s\" is no token id; ids are numbers with spaces between", word);
            return false;
        }
        int32_t *grown = ds_grow(*ids, &capacity, *n + 1, sizeof **ids);
        if (!grown) {
            failed();
            return false;
        }
        *ids = grown;
        (*ids)[(*n)++] = (int32_t)id;
    }
    return true;
}

static int run_decode(const options *o, const ds_tokenizer *tok) {
    ds_text all = {0};
    size_t length = 0;
    char *text = NULL;
    if (o->n_files > 0) {
        for (int i = 0; i < o->n_files; i++)
            ds_text_printf(&all, "%s ", o->files[i]);
        text = ds_text_take(&all);
    } else {
        text = read_stdin(&length);
    }
    if (!text)
        return failed();
    int32_t *ids = NULL;
    size_t n = 0;
    char *out = NULL;
    bool good = parse_ids(text, &ids, &n);
    if (good && ds_tokenizer_decode(tok, ids, n, &out, &length) != DS_OK)
        good = failed() == 0;
    if (good)
        fwrite(out, 1, length, stdout);
    free(out);
    free(ids);
    free(text);
    return good ? 0 : 1;
}

/* ---- Options ------------------------------------------------------------------------------ */

enum {
    OPT_VOCAB = 256,
    OPT_SPECIAL,
    OPT_MIN_COUNT,
    OPT_PATTERN,
    OPT_THREADS,
    OPT_TOKENIZER,
    OPT_STDOUT,
    OPT_PLAIN,
    OPT_NO_END
};

static const struct option long_options[] = {
    {"vocab-size", required_argument, NULL, OPT_VOCAB},
    {"output", required_argument, NULL, 'o'},
    {"special", required_argument, NULL, OPT_SPECIAL},
    {"min-count", required_argument, NULL, OPT_MIN_COUNT},
    {"pattern", required_argument, NULL, OPT_PATTERN},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"tokenizer", required_argument, NULL, OPT_TOKENIZER},
    {"stdout", no_argument, NULL, OPT_STDOUT},
    {"plain", no_argument, NULL, OPT_PLAIN},
    {"no-end", no_argument, NULL, OPT_NO_END},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static bool read_number(const char *name, long long least, long long *out) {
    char *end = NULL;
    errno = 0;
    *out = strtoll(optarg, &end, 10);
    if (end != optarg && !*end && !errno && *out >= least && *out <= INT32_MAX)
        return true;
    return complain("--%s %s: should be a whole number from %lld up", name, optarg, least) == 0;
}

static bool take_option(options *o, int option) {
    long long number = 0;
    switch (option) {
    case 'o': o->output = optarg; return true;
    case OPT_TOKENIZER: o->tokenizer = optarg; return true;
    case OPT_PATTERN: o->train.pattern = optarg; return true;
    case OPT_STDOUT: o->to_stdout = true; return true;
    case OPT_PLAIN: o->plain = true; return true;
    case OPT_NO_END: o->no_end = true; return true;
    case OPT_VOCAB:
        if (!read_number("vocab-size", 257, &number))
            return false;
        o->train.vocab_size = number;
        return true;
    case OPT_MIN_COUNT:
        if (!read_number("min-count", 1, &number))
            return false;
        o->train.min_count = number;
        return true;
    case OPT_THREADS:
        if (!read_number("threads", 1, &number))
            return false;
        o->threads = (int)number;
        return true;
    case OPT_SPECIAL:
        if (o->n_specials == sizeof o->specials / sizeof *o->specials)
            return complain("more than %zu special tokens", o->n_specials) == 0;
        o->specials[o->n_specials++] = optarg;
        return true;
    default: return false; /* getopt has said what is wrong */
    }
}

int main(int argc, char **argv) {
    options o = {.train = DS_BPE_TRAIN_DEFAULTS, .tokenizer = "tokenizer.json"};
    for (int c; (c = getopt_long(argc, argv, "o:h", long_options, NULL)) != -1;) {
        if (c == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (!take_option(&o, c))
            return 2;
    }
    const char *command = optind < argc ? argv[optind++] : "";
    o.files = argv + optind;
    o.n_files = argc - optind;
    if (strcmp(command, "train") == 0)
        return run_train(&o);
    if (strcmp(command, "encode") != 0 && strcmp(command, "decode") != 0) {
        if (*command)
            complain("\"%s\" is no command: train, encode or decode", command);
        else
            fputs(usage, stderr);
        return 2;
    }
    ds_tokenizer *tok = NULL;
    if (ds_tokenizer_load(o.tokenizer, &tok) != DS_OK)
        return failed();
    int result = command[0] == 'e' ? run_encode(&o, tok) : run_decode(&o, tok);
    if (fflush(stdout) != 0 || ferror(stdout))
        result = complain("writing to stdout: %s", strerror(errno));
    ds_tokenizer_free(tok);
    return result;
}
