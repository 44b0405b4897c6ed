/* deepseek-generate: text out of a trained model. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/batch.h"
#include "cli/numbers.h"
#include "cli/speculate.h"
#include "cli/stream.h"
#include "deepseek/grammar.h"
#include "infer/model.h"
#include "infer/prompt.h"
#include "infer/stop_filter.h"
#include "deepseek/tokenizer.h"

static const char USAGE[] =
    "usage: deepseek-generate --model PATH [--prompt TEXT | --prompts FILE] [options]\n"
    "\n"
    "Continues a text with a trained decoder. PATH is a Hugging Face folder (config.json,\n"
    "model.safetensors, tokenizer.json), a .gguf, a checkpoint, a run folder (then its newest\n"
    "whole checkpoint is taken), or a llama2.c .bin.\n"
    "    deepseek-generate --model out/demo --prompt 'And God said'\n"
    "    deepseek-generate --model stories260K.bin --tokenizer tok512.bin --temperature 0\n"
    "    deepseek-generate --model out/demo --prompts questions.txt > answers.jsonl\n"
    "    deepseek-generate --model DIR --prompt 'Ann is 30. As JSON: ' --json-schema person.json\n"
    "\n"
    "  -m, --model PATH        where the model is\n"
    "      --tokenizer PATH    tokenizer.json, SentencePiece's .model, vocab.txt, a .gguf, or\n"
    "                          llama2.c's .bin (default: beside the model, or in it)\n"
    "  -p, --prompt TEXT       what to continue (default: standard input)\n"
    "      --prompts FILE      many prompts, computed together: one on each line, or JSON lines\n"
    "                          {\"prompt\": \"…\", \"max_tokens\": 50, …}; answers are JSON lines "
    "in\n"
    "                          their order; -: standard input\n"
    "      --max-batch-size N  of those in work at once (default 32)\n"
    "      --speculate WHAT[:K]  guess up to K tokens ahead, which changes no answer but takes\n"
    "                          fewer steps: ngram (what followed the same words earlier) or the\n"
    "                          path of a smaller model with the same vocabulary\n"
    "  -n, --max-tokens N      tokens to write at most (default 200)\n"
    "      --stop STRING       end before the first of these (may be given up to five times)\n"
    "      --temperature T     0 takes the likeliest token each time (default 0.8, or what\n"
    "                          generation_config.json in the model's folder says; so for these)\n"
    "      --top-k K           draw among the K likeliest tokens (default 40; 0: all)\n"
    "      --top-p P           draw among the likeliest tokens that hold P of the probability\n"
    "      --generation-config NAME  auto (default: as above) or none\n"
    "      --seed N            of the draw (default 1)\n"
    "      --json-schema FILE  write JSON that this schema allows, and nothing else\n"
    "      --grammar FILE      write what the rules in this file allow (GBNF, llama.cpp's "
    "notation)\n"
    "      --dtype NAME        weights in memory: auto (default: as the files have them), f32,\n"
    "                          bf16, f16; or quantised while loading: int8 (inputs of products\n"
    "                          too), w8a16 (weights only), int4, int4-32, int4-128 (groups of 64,\n"
    "                          32, 128 columns); a quantised folder stays as it is\n"
    "      --verify            check the sums of a checkpoint's files again, even if they were "
    "right\n"
    "                          before and have not changed\n"
    "      --precision NAME    of what is computed: fp32 (default) or bf16\n"
    "      --device NAME       cpu (default) or ref\n"
    "      --threads N         default: all cores\n"
    "      --perplexity FILE   instead of writing: how well the model predicts a text; -n N goes\n"
    "                          through N tokens at most (default: all)\n"
    "      --window N          of tokens that see each other then (default 512)\n"
    "      --likeliest FILE    writes there, a line for each token, the id of the likeliest next\n"
    "  -v, --verbose           rate and times on standard error\n"
    "  -h, --help              this text\n";

typedef struct request {
    const char *model, *tokenizer, *prompt, *device, *dtype;
    const char *prompts; /* file of many; NULL: one */
    ds_cli_speculation speculation;
    int max_batch_size;
    const char *schema, *grammar;   /* files: what may be written */
    const char *scored, *likeliest; /* files: what is to be predicted; where guesses go */
    int64_t window;
    int64_t max_tokens;
    ds_sampling sampling;
    ds_precision precision;
    int threads;
    ds_stop_filter filter; /* of what is written */
    bool verbose, verify, plain_sampling;
} request;

typedef struct session {
    ds_model *model;
    const ds_tokenizer *tokenizer;
    ds_generator *generator;
    ds_grammar *grammar; /* NULL: any text */
    ds_grammar_cursor *cursor;
} session;

static int fail(void) {
    fprintf(stderr, "deepseek-generate: %s\n", ds_error());
    return 1;
}

static void show_log(ds_log_level level, const char *line, void *context) {
    (void)context;
    if (level >= DS_LOG_WARN)
        fprintf(stderr, "deepseek-generate: %s\n", line);
}

/* The form that the text must have. */
static ds_status open_grammar(const request *r, session *s) {
    const char *path = r->schema ? r->schema : r->grammar;
    char *text = NULL;
    size_t size = 0;
    if (!path)
        return DS_OK;
    DS_TRY(ds_file_read(path, (size_t)16 << 20, &text, &size));
    const ds_status status = r->schema
                                 ? ds_grammar_from_json_schema(s->model, text, size, &s->grammar)
                                 : ds_grammar_from_gbnf(s->model, text, size, &s->grammar);
    free(text);
    if (status != DS_OK)
        return ds_fail_within(status, "%s", path);
    return DS_OK;
}

/* What was not given as an option is below 0. */
static void complete_sampling(request *r, const ds_model *m) {
    ds_sampling defaults = {.temperature = 0.8f, .top_k = 40};
    if (!r->plain_sampling)
        ds_model_wanted_sampling(m, &defaults);
    const ds_sampling given = r->sampling;
    r->sampling = defaults;
    r->sampling.seed = given.seed;
    r->sampling.temperature = given.temperature < 0 ? defaults.temperature : given.temperature;
    r->sampling.top_k = given.top_k < 0 ? defaults.top_k : given.top_k;
    r->sampling.top_p = given.top_p < 0 ? defaults.top_p : given.top_p;
}

static ds_status open_session(request *r, session *s) {
    const ds_model_opts opts = {.device = r->device,
                                .n_threads = r->threads,
                                .tokenizer = r->tokenizer,
                                .dtype = r->dtype,
                                .verify = r->verify};
    DS_TRY(ds_model_from_pretrained(r->model, opts, &s->model));
    complete_sampling(r, s->model);
    DS_TRY(ds_cli_open_draft(&r->speculation, opts));
    s->tokenizer = ds_model_get_tokenizer(s->model);
    if (!s->tokenizer)
        return ds_fail(
            DS_NOT_FOUND,
            "%s has no tokenizer (tokenizer.json in its folder, tokenizer.bin beside a .bin): "
            "name one by --tokenizer",
            r->model);
    return open_grammar(r, s);
}

static void close_session(session *s) {
    ds_generator_free(s->generator);
    ds_grammar_cursor_free(s->cursor);
    ds_grammar_free(s->grammar);
    ds_model_free(s->model);
}

/* False once standard output is gone. */
static bool print_piece(const char *text, size_t length) {
    return (length == 0 || fwrite(text, 1, length, stdout) == length) && fflush(stdout) == 0;
}

/* Writes what is certain of the text so far; false when no more is wanted. */
static bool print_answer(const char *text, size_t length, void *context) {
    ds_stop_filter *filter = context;
    ds_text certain = {0};
    ds_stop_filter_push(filter, text, length, &certain);
    const bool open = !certain.poisoned && print_piece(certain.data, certain.length);
    ds_text_clear(&certain);
    return open && !filter->stopped;
}

static void end_answer(ds_stop_filter *filter) {
    ds_text rest = {0};
    ds_stop_filter_finish(filter, &rest);
    print_piece(rest.data, rest.length);
    ds_text_clear(&rest);
    putchar('\n');
}

static ds_status continue_text(request *r, session *s, ds_detokenizer *stream) {
    const int32_t end = ds_tokenizer_eos(s->tokenizer);
    const char *text = NULL;
    size_t length = 0;
    const double start = ds_clock_s();
    int64_t written = 0;
    bool open = true;
    for (; open && written < r->max_tokens; written++) {
        int32_t id = -1;
        const ds_status status = ds_generator_next(s->generator, r->sampling, &id);
        if (status == DS_NOT_FOUND)
            break; /* the context is full */
        if (status != DS_OK)
            return status;
        if (id == end || id == ds_model_get_config(s->model)->eos_token)
            break;
        if (id >= ds_tokenizer_vocab_size(s->tokenizer))
            continue; /* models' vocabularies are often padded: it has no text */
        DS_TRY(ds_detokenizer_push(stream, id, &text, &length));
        open = print_answer(text, length, &r->filter);
    }
    DS_TRY(ds_detokenizer_finish(stream, &text, &length));
    print_answer(text, length, &r->filter);
    end_answer(&r->filter);
    const double elapsed = ds_clock_s() - start;
    if (r->verbose)
        fprintf(stderr, "%lld tokens in %.2f s, %.1f tokens/s\n", (long long)written, elapsed,
                (double)written / elapsed);
    return DS_OK;
}

/* The same by an executor, which can guess ahead. */
static ds_status stream_text(request *r, session *s, const int32_t *ids, size_t n,
                             ds_detokenizer *stream) {
    size_t n_ends = 0;
    const int32_t *ends = ds_model_end_tokens(s->model, &n_ends);
    const ds_async_executor_opts opts = {
        .max_batch_size = 1, .precision = r->precision, .speculate = r->speculation.opts};
    const ds_request q = {.prompt = ids,
                          .n_prompt = (int64_t)n,
                          .max_tokens = r->max_tokens,
                          .sampling = r->sampling,
                          .stop_tokens = ends,
                          .n_stop_tokens = n_ends,
                          .grammar = s->grammar};
    ds_executor_stats stats;
    const double start = ds_clock_s();
    DS_TRY(ds_cli_stream(s->model, opts, q, stream, print_answer, &r->filter, &stats));
    end_answer(&r->filter);
    const double elapsed = ds_clock_s() - start;
    if (r->verbose)
        fprintf(stderr,
                "%lld tokens in %.2f s with the prompt's %zu, %.1f tokens/s; %lld steps, %lld of "
                "%lld guesses right\n",
                (long long)stats.generated_tokens, elapsed, n,
                (double)stats.generated_tokens / elapsed, (long long)stats.steps,
                (long long)stats.accepted_tokens, (long long)stats.proposed_tokens);
    return DS_OK;
}

static ds_status write_text(request *r, session *s, const char *prompt, const int32_t *ids,
                            size_t n) {
    ds_detokenizer *stream = ds_detokenizer_new(s->tokenizer);
    ds_status status = stream ? DS_OK : DS_OUT_OF_MEMORY;
    /* the stream passes over the prompt, which is printed as it was given: some tokenizers' text
     * depends on whether it is at the beginning */
    for (size_t i = 0; i < n && status == DS_OK; i++) {
        const char *text = NULL;
        size_t length = 0;
        status = ds_detokenizer_push(stream, ids[i], &text, &length);
    }
    if (status == DS_OK && print_piece(prompt, strlen(prompt)))
        status = r->speculation.opts.kind != DS_SPECULATE_NONE ? stream_text(r, s, ids, n, stream)
                                                               : continue_text(r, s, stream);
    ds_detokenizer_free(stream);
    return status;
}

static ds_status feed_prompt(const request *r, session *s, const int32_t *ids, size_t n) {
    const ds_model_config *c = ds_model_get_config(s->model);
    if (r->speculation.opts.kind != DS_SPECULATE_NONE)
        return DS_OK; /* the executor does */
    DS_TRY(ds_generator_new(ds_model_get_state(s->model), c, c->max_seq_len, r->precision,
                            &s->generator));
    if (s->grammar) {
        size_t n_ends = 0;
        const int32_t *ends = ds_model_end_tokens(s->model, &n_ends);
        DS_TRY(ds_grammar_cursor_new(s->grammar, &s->cursor));
        ds_generator_constrain(s->generator, s->cursor, ends, n_ends);
    }
    const double start = ds_clock_s();
    DS_TRY(ds_generator_feed(s->generator, ids, (int64_t)n));
    if (r->verbose)
        fprintf(stderr, "%zu prompt tokens in %.3f s\n", n, ds_clock_s() - start);
    return DS_OK;
}

static ds_status generate(request *r, session *s, const char *prompt) {
    int32_t *ids = NULL;
    size_t n = 0;
    ds_prompt_format format;
    DS_TRY(ds_prompt_format_load(s->tokenizer, s->model->path, &format));
    DS_TRY(ds_prompt_encode_text(&format, prompt, &ids, &n));
    ds_status status = feed_prompt(r, s, ids, n);
    if (status == DS_OK)
        status = write_text(r, s, prompt, ids, n);
    free(ids);
    return status;
}

static ds_status answer_prompts(const request *r, session *s, int64_t *n_failed) {
    const ds_cli_batch batch = {.tool = "deepseek-generate",
                                .model = s->model,
                                .path = r->prompts,
                                .max_tokens = r->max_tokens,
                                .sampling = r->sampling,
                                .grammar = s->grammar,
                                .executor = {.max_batch_size = r->max_batch_size,
                                             .precision = r->precision,
                                             .speculate = r->speculation.opts},
                                .show_progress = isatty(STDERR_FILENO) && !isatty(STDOUT_FILENO),
                                .show_summary = isatty(STDERR_FILENO) || r->verbose,
                                .out = stdout};
    return ds_cli_batch_run(&batch, n_failed);
}

/* ---- how well a text is predicted ------------------------------------------------------------ */

static ds_status write_ids(const char *path, const int32_t *ids, int64_t n) {
    FILE *file = fopen(path, "w");
    bool done = file != NULL;
    for (int64_t i = 0; done && i < n; i++)
        done = fprintf(file, "%d\n", ids[i]) > 0;
    if (file && fclose(file) != 0)
        done = false;
    return done ? DS_OK : ds_fail(DS_IO, "%s: cannot be written", path);
}

static bool show_score(const ds_text_score *so_far, void *context) {
    if (((const request *)context)->verbose)
        fprintf(stderr, "%lld tokens, perplexity %.4f\n", (long long)so_far->n_scored,
                exp(so_far->loss / (double)so_far->n_predicted));
    return true;
}

static ds_status score_ids(request *r, session *s, const int32_t *ids, int64_t n) {
    int32_t *likeliest = r->likeliest ? ds_malloc((size_t)n * sizeof *likeliest) : NULL;
    if (r->likeliest && !likeliest)
        return DS_OUT_OF_MEMORY;
    const ds_score_opts opts = {
        .window = r->window, .precision = r->precision, .on_window = show_score, .context = r};
    ds_text_score score;
    ds_status status = ds_model_score_text(s->model, ids, n, opts, likeliest, &score);
    if (status == DS_OK) {
        printf("perplexity %.4f over %lld tokens\n", exp(score.loss / (double)score.n_predicted),
               (long long)score.n_predicted);
        if (likeliest)
            status = write_ids(r->likeliest, likeliest, score.n_scored);
    }
    free(likeliest);
    return status;
}

static ds_status score_file(request *r, session *s) {
    enum { MOST_MIB = 1024 };
    char *text = NULL;
    int32_t *ids = NULL;
    size_t size = 0, n = 0;
    DS_TRY(ds_file_read(r->scored, (size_t)MOST_MIB << 20, &text, &size));
    ds_status status = ds_tokenizer_encode(s->tokenizer, text, size, &ids, &n);
    free(text);
    const int64_t most = r->max_tokens < 0 ? (int64_t)n : r->max_tokens;
    if (status == DS_OK)
        status = score_ids(r, s, ids, (int64_t)n < most ? (int64_t)n : most);
    free(ids);
    return status;
}

static char *read_stdin(void) {
    size_t size = 0, capacity = 1 << 16;
    char *text = malloc(capacity);
    while (text) {
        size += fread(text + size, 1, capacity - size - 1, stdin);
        if (size < capacity - 1)
            break;
        char *larger = realloc(text, capacity *= 2);
        if (!larger)
            free(text);
        text = larger;
    }
    if (text)
        text[size] = '\0';
    return text;
}

/* Numbers are read whole or end the program: options are parsed before anything is open. */
static int64_t whole(const char *option, const char *text, int64_t low, int64_t high) {
    int64_t value = 0;
    if (!ds_cli_integer("deepseek-generate", option, text, low, high, &value))
        exit(2);
    return value;
}

static float real(const char *option, const char *text, double low, double high) {
    double value = 0;
    if (!ds_cli_real("deepseek-generate", option, text, low, high, &value))
        exit(2);
    return (float)value;
}

enum {
    TOKENIZER = 256,
    STOP,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    GENERATION_CONFIG,
    SEED,
    SCHEMA,
    GRAMMAR,
    DTYPE,
    VERIFY,
    PRECISION,
    DEVICE,
    THREADS,
    PROMPTS,
    MAX_BATCH_SIZE,
    SPECULATE,
    SCORED,
    WINDOW,
    LIKELIEST
};

static const struct option options[] = {
    {"model", required_argument, NULL, 'm'},
    {"tokenizer", required_argument, NULL, TOKENIZER},
    {"prompt", required_argument, NULL, 'p'},
    {"max-tokens", required_argument, NULL, 'n'},
    {"stop", required_argument, NULL, STOP},
    {"temperature", required_argument, NULL, TEMPERATURE},
    {"top-k", required_argument, NULL, TOP_K},
    {"top-p", required_argument, NULL, TOP_P},
    {"generation-config", required_argument, NULL, GENERATION_CONFIG},
    {"seed", required_argument, NULL, SEED},
    {"json-schema", required_argument, NULL, SCHEMA},
    {"grammar", required_argument, NULL, GRAMMAR},
    {"dtype", required_argument, NULL, DTYPE},
    {"verify", no_argument, NULL, VERIFY},
    {"precision", required_argument, NULL, PRECISION},
    {"device", required_argument, NULL, DEVICE},
    {"threads", required_argument, NULL, THREADS},
    {"prompts", required_argument, NULL, PROMPTS},
    {"max-batch-size", required_argument, NULL, MAX_BATCH_SIZE},
    {"speculate", required_argument, NULL, SPECULATE},
    {"perplexity", required_argument, NULL, SCORED},
    {"window", required_argument, NULL, WINDOW},
    {"likeliest", required_argument, NULL, LIKELIEST},
    {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {0}};

static bool add_stop(ds_stop_filter *filter, const char *text) {
    if (!*text || filter->n_stops == DS_MOST_STOPS) {
        fprintf(stderr, "deepseek-generate: --stop must not be %s\n",
                *text ? "given more than five times" : "empty");
        return false;
    }
    filter->stops[filter->n_stops++] = text;
    return true;
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, request *r) {
    for (int o; (o = getopt_long(argc, argv, "m:p:n:vh", options, NULL)) != -1;) {
        switch (o) {
        case 'm': r->model = optarg; break;
        case TOKENIZER: r->tokenizer = optarg; break;
        case 'p': r->prompt = optarg; break;
        case 'n': r->max_tokens = whole("--max-tokens", optarg, 0, INT32_MAX); break;
        case STOP:
            if (!add_stop(&r->filter, optarg))
                return 2;
            break;
        case TEMPERATURE: r->sampling.temperature = real("--temperature", optarg, 0, 100); break;
        case TOP_K: r->sampling.top_k = (int)whole("--top-k", optarg, 0, INT32_MAX); break;
        case TOP_P: r->sampling.top_p = real("--top-p", optarg, 0, 1); break;
        case GENERATION_CONFIG:
            if (strcmp(optarg, "auto") != 0 && strcmp(optarg, "none") != 0) {
                fprintf(stderr, "deepseek-generate: --generation-config must be auto or none\n");
                return 2;
            }
            r->plain_sampling = *optarg == 'n';
            break;
        case SEED: r->sampling.seed = (uint64_t)whole("--seed", optarg, 0, INT64_MAX); break;
        case SCHEMA: r->schema = optarg; break;
        case GRAMMAR: r->grammar = optarg; break;
        case THREADS: r->threads = (int)whole("--threads", optarg, 1, 4096); break;
        case DEVICE: r->device = optarg; break;
        case PROMPTS: r->prompts = optarg; break;
        case MAX_BATCH_SIZE:
            r->max_batch_size = (int)whole("--max-batch-size", optarg, 1, 65536);
            break;
        case SPECULATE:
            if (!ds_cli_speculate("deepseek-generate", optarg, &r->speculation))
                return 2;
            break;
        case SCORED: r->scored = optarg; break;
        case WINDOW: r->window = whole("--window", optarg, 2, INT32_MAX); break;
        case LIKELIEST: r->likeliest = optarg; break;
        case DTYPE: r->dtype = optarg; break;
        case VERIFY: r->verify = true; break;
        case PRECISION:
            if (strcmp(optarg, "fp32") != 0 && strcmp(optarg, "bf16") != 0) {
                fprintf(stderr, "deepseek-generate: --precision must be fp32 or bf16\n");
                return 2;
            }
            r->precision = *optarg == 'b' ? DS_PRECISION_BF16 : DS_PRECISION_FULL;
            break;
        case 'v': r->verbose = true; break;
        case 'h': fputs(USAGE, stdout); return 0;
        default: fputs("Try `deepseek-generate --help`.\n", stderr); return 2;
        }
    }
    if (!r->model || optind < argc) {
        fputs(USAGE, stderr);
        return 2;
    }
    if (r->schema && r->grammar) {
        fputs("deepseek-generate: --json-schema and --grammar exclude each other\n", stderr);
        return 2;
    }
    return -1;
}

static bool fits_together(const request *r) {
    const char *wrong = r->likeliest && !r->scored         ? "--likeliest goes with --perplexity"
                        : r->prompt && r->prompts          ? "give --prompt or --prompts, not both"
                        : r->scored && r->prompts          ? "--perplexity takes no --prompts"
                        : r->filter.n_stops && r->prompts  ? "--stop goes with --prompt"
                        : r->max_batch_size && !r->prompts ? "--max-batch-size goes with --prompts"
                                                           : NULL;
    if (wrong)
        fprintf(stderr, "deepseek-generate: %s\n", wrong);
    return !wrong;
}

int main(int argc, char **argv) {
    request r = {.device = "cpu",
                 .max_tokens = -1,
                 .precision = DS_PRECISION_FULL,
                 .sampling = {.temperature = -1, .top_k = -1, .top_p = -1, .seed = 1}};
    const int early = parse(argc, argv, &r);
    if (early >= 0)
        return early;
    if (!fits_together(&r))
        return 2;
    if (r.max_tokens < 0 && !r.scored)
        r.max_tokens = 200;
    char *input = r.prompt || r.scored || r.prompts ? NULL : read_stdin();
    static session s;
    ds_log_to(show_log, NULL);
    int64_t n_failed = 0;
    ds_status status = open_session(&r, &s);
    if (status == DS_OK)
        status = r.scored    ? score_file(&r, &s)
                 : r.prompts ? answer_prompts(&r, &s, &n_failed)
                             : generate(&r, &s,
                                        r.prompt ? r.prompt
                                        : input  ? input
                                                 : "");
    close_session(&s);
    ds_model_free(r.speculation.opts.draft);
    ds_stop_filter_clear(&r.filter);
    free(input);
    return status != DS_OK ? fail() : n_failed > 0;
}
