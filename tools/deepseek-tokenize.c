/* deepseek-tokenize: learns a vocabulary from text, turns text into token files for training, and
 * token ids back into text. */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/text.h"
#include "cli/numbers.h"
#include "data/encode.h"
#include "deepseek/tokenizer.h"

#define STDIN_LIMIT ((size_t)1 << 30)

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
    "  --tokenizer PATH    a tokenizer.json, a folder with one, SentencePiece's .model, a .gguf,\n"
    "                      BERT's vocab.txt, encoder.json beside vocab.bpe, or a llama2.c\n"
    "                      tokenizer.bin (default tokenizer.json)\n"
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
    "  deepseek-tokenize encode --tokenizer tokenizer.json -o data/book book.txt\n"
    "\n"
    "For a BERT, which learns to fill in masked tokens:\n"
    "  deepseek-tokenize train --special '[MASK]' --special '[CLS]' --special '[SEP]' book.txt\n";

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

/* Prints the ids of a document on one line. */
static ds_status print_ids(void *context, const int32_t *ids, size_t n, bool ends_document) {
    (void)context;
    for (size_t i = 0; i < n; i++)
        printf("%d ", ids[i]);
    if (ends_document)
        putchar('\n');
    return DS_OK;
}

static void show_encoding(void *context, const char *path, int64_t done, int64_t total) {
    meter_show(context, path, done, total, true);
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

static int encode_stdin(const options *o, const ds_tokenizer *tok) {
    size_t length = 0, n = 0;
    int32_t *ids = NULL;
    char *text = read_stdin(&length);
    if (!text)
        return failed();
    const ds_status status = o->plain ? ds_tokenizer_encode_plain(tok, text, length, &ids, &n)
                                      : ds_tokenizer_encode(tok, text, length, &ids, &n);
    if (status == DS_OK)
        print_ids(NULL, ids, n, true);
    free(text);
    free(ids);
    return status == DS_OK ? 0 : failed();
}

static void report_encoding(const char *output, const ds_encode_counts *c, double spent_s) {
    char count[32], rate[32], time[32];
    fprintf(stderr, "%s.bin, .idx: %s tokens in %lld document%s, %.2f bytes a token; %s, %s/s\n",
            output, ds_format_count(count, sizeof count, (double)c->tokens),
            (long long)c->documents, c->documents == 1 ? "" : "s",
            c->tokens ? (double)c->text_bytes / (double)c->tokens : 0.0,
            ds_format_duration(time, sizeof time, spent_s),
            ds_format_bytes(rate, sizeof rate, (double)c->text_bytes / spent_s));
}

static int encode_files(const options *o, const ds_tokenizer *tok) {
    meter m = {0};
    ds_encode_counts counts = {0};
    ds_indexed_writer *writer = NULL;
    /* ids on stdout are those of the text, so that decode gives the text back */
    const bool has_end = !o->no_end && o->output;
    const ds_encode_opts opts = {.plain = o->plain,
                                 .end_token = has_end ? ds_tokenizer_eos(tok) : -1,
                                 .threads = o->threads,
                                 .progress = show_encoding,
                                 .progress_context = &m};
    const double start = ds_clock_s();
    ds_status status = DS_OK;
    if (o->output)
        status = ds_indexed_writer_open(o->output, ds_encode_token_bytes(tok), &writer);
    if (status == DS_OK)
        status = ds_encode_text(tok, (const char *const *)o->files, (size_t)o->n_files, &opts,
                                writer ? ds_encode_to_writer : print_ids, writer, &counts);
    meter_end(&m);
    if (status == DS_OK && writer)
        status = ds_indexed_writer_close(writer);
    else
        ds_indexed_writer_abandon(writer);
    if (status != DS_OK)
        return failed();
    if (!o->output)
        return 0;
    report_encoding(o->output, &counts, ds_clock_s() - start);
    if (opts.end_token < 0 && !o->no_end)
        fputs("the tokenizer has no token that ends a text: documents end without a mark\n",
              stderr);
    return 0;
}

static int run_encode(const options *o, const ds_tokenizer *tok) {
    if (!o->output == !o->to_stdout)
        return complain("encode needs -o PREFIX or --stdout");
    if (o->n_files > 0)
        return encode_files(o, tok);
    if (o->output)
        return complain("encode needs files to read; see deepseek-tokenize --help");
    return encode_stdin(o, tok);
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

static bool read_number(const char *option, int64_t least, int64_t *out) {
    return ds_cli_integer("deepseek-tokenize", option, optarg, least, INT32_MAX, out);
}

static bool take_option(options *o, int option) {
    int64_t number = 0;
    switch (option) {
    case 'o': o->output = optarg; return true;
    case OPT_TOKENIZER: o->tokenizer = optarg; return true;
    case OPT_PATTERN: o->train.pattern = optarg; return true;
    case OPT_STDOUT: o->to_stdout = true; return true;
    case OPT_PLAIN: o->plain = true; return true;
    case OPT_NO_END: o->no_end = true; return true;
    case OPT_VOCAB:
        if (!read_number("--vocab-size", 257, &number))
            return false;
        o->train.vocab_size = number;
        return true;
    case OPT_MIN_COUNT:
        if (!read_number("--min-count", 1, &number))
            return false;
        o->train.min_count = number;
        return true;
    case OPT_THREADS:
        if (!read_number("--threads", 1, &number))
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
