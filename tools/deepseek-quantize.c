/* deepseek-quantize: a trained model's folder again, with weights of 8 or 4 bits. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/numbers.h"
#include "deepseek/inference.h"

static const char TOOL[] = "deepseek-quantize";
static const char USAGE[] =
    "usage: deepseek-quantize IN OUT [options]\n"
    "\n"
    "Writes the model of folder IN (Hugging Face's, or a run folder of deepseek-train) into the "
    "new\n"
    "folder OUT, its weights quantised. OUT is in the format of compressed-tensors, which vLLM "
    "and\n"
    "transformers read too, and is opened as any other: deepseek-serve --model OUT.\n"
    "    deepseek-quantize SmolLM2-135M small-8                       # half of bf16\n"
    "    deepseek-quantize SmolLM2-135M small-4 --dtype int4          # a quarter\n"
    "    deepseek-quantize SmolLM2-135M small-8 --calibrate text.txt --smooth 0.5\n"
    "See what it costs: deepseek-generate --model OUT --perplexity text.txt\n"
    "\n"
    "      --dtype NAME        int8 (default): a scale for each output; inputs of products become\n"
    "                          8 bits too, token by token. int4: a scale for each group of "
    "inputs,\n"
    "                          which stay floats\n"
    "      --group-size N      of int4: 32, 64 (default) or 128; smaller is closer and larger\n"
    "      --calibrate TEXT    a text file of the kind that the model will see; the model reads "
    "it\n"
    "                          to learn which columns of its products' inputs are large\n"
    "      --calibrate-tokens N  of that text at most (default 8192)\n"
    "      --smooth ALPHA      0 … 1, 0.5 is usual: moves range from inputs into weights, in the\n"
    "                          norms before them (SmoothQuant); wants --calibrate\n"
    "      --smooth-all        also where there is no norm before (int8): closer still, but only\n"
    "                          this project's programs can read OUT\n"
    "      --outliers TIMES    int8: keeps columns as bf16 whose inputs are so many times as "
    "large\n"
    "                          as the median column's (LLM.int8()); try 20; wants --calibrate; "
    "only\n"
    "                          this project's programs can read OUT\n"
    "      --tokenizer PATH    for the text (default: beside the model)\n"
    "  -q, --quiet             only errors\n"
    "  -h, --help              this text\n";

typedef struct request {
    const char *from, *to;
    ds_quantise_opts opts;
    bool quiet;
} request;

enum {
    DTYPE = 256,
    GROUP_SIZE,
    CALIBRATE,
    CALIBRATE_TOKENS,
    SMOOTH,
    SMOOTH_ALL,
    OUTLIERS,
    TOKENIZER
};

static int64_t whole(const char *option, const char *text, int64_t low, int64_t high) {
    int64_t value = 0;
    if (!ds_cli_integer(TOOL, option, text, low, high, &value))
        exit(2);
    return value;
}

static float real(const char *option, const char *text, double low, double high) {
    double value = 0;
    if (!ds_cli_real(TOOL, option, text, low, high, &value))
        exit(2);
    return (float)value;
}

static int bits_of(const char *name) {
    if (strcmp(name, "int8") != 0 && strcmp(name, "int4") != 0) {
        fprintf(stderr, "%s: --dtype must be int8 or int4\n", TOOL);
        exit(2);
    }
    return name[3] - '0';
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, request *r) {
    static const struct option options[] = {
        {"dtype", required_argument, NULL, DTYPE},
        {"group-size", required_argument, NULL, GROUP_SIZE},
        {"calibrate", required_argument, NULL, CALIBRATE},
        {"calibrate-tokens", required_argument, NULL, CALIBRATE_TOKENS},
        {"smooth", required_argument, NULL, SMOOTH},
        {"smooth-all", no_argument, NULL, SMOOTH_ALL},
        {"outliers", required_argument, NULL, OUTLIERS},
        {"tokenizer", required_argument, NULL, TOKENIZER},
        {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},
        {0}};
    for (int o; (o = getopt_long(argc, argv, "qh", options, NULL)) != -1;) {
        switch (o) {
        case DTYPE: r->opts.bits = bits_of(optarg); break;
        case GROUP_SIZE: r->opts.group_size = whole("--group-size", optarg, 8, 1 << 20); break;
        case CALIBRATE: r->opts.calibration = optarg; break;
        case CALIBRATE_TOKENS:
            r->opts.calibration_tokens = whole("--calibrate-tokens", optarg, 1, INT32_MAX);
            break;
        case SMOOTH: r->opts.smooth = real("--smooth", optarg, 0, 1); break;
        case SMOOTH_ALL: r->opts.smooth_all = true; break;
        case OUTLIERS: r->opts.outliers = real("--outliers", optarg, 1, 1e6); break;
        case TOKENIZER: r->opts.tokenizer = optarg; break;
        case 'q': r->quiet = true; break;
        case 'h': fputs(USAGE, stdout); return 0;
        default: fprintf(stderr, "Try `%s --help`.\n", TOOL); return 2;
        }
    }
    if (argc - optind != 2) {
        fputs(USAGE, stderr);
        return 2;
    }
    r->from = argv[optind];
    r->to = argv[optind + 1];
    return -1;
}

/* One line that is written over, where people look. */
static void show_progress(const ds_quantise_progress *p, void *context) {
    const request *r = context;
    if (!r->quiet && isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K%zu/%zu %.60s", p->n_done + 1, p->n_tensors, p->tensor);
}

static void show_log(ds_log_level level, const char *line, void *context) {
    (void)context;
    if (level >= DS_LOG_WARN)
        fprintf(stderr, "%s: %s\n", TOOL, line);
}

static void show_report(const request *r, const ds_quantise_report *report) {
    char before[32], after[32];
    printf("%s: %zu matrices quantised, %s → %s", r->to, report->n_quantised,
           ds_format_bytes(before, sizeof before, (double)report->bytes_before),
           ds_format_bytes(after, sizeof after, (double)report->bytes_after));
    if (report->n_smoothed)
        printf(", %zu smoothed", report->n_smoothed);
    if (r->opts.outliers > 0)
        printf(", %lld columns kept", (long long)report->n_outliers);
    putchar('\n');
}

int main(int argc, char **argv) {
    request r = {0};
    const int early = parse(argc, argv, &r);
    if (early >= 0)
        return early;
    ds_quantise_report report;
    ds_log_to(show_log, NULL);
    r.opts.on_progress = show_progress;
    r.opts.context = &r;
    const ds_status status = ds_model_quantise(r.from, r.to, r.opts, &report);
    if (!r.quiet && isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
    if (status != DS_OK) {
        fprintf(stderr, "%s: %s\n", TOOL, ds_error());
        return status == DS_INVALID ? 2 : 1;
    }
    if (!r.quiet)
        show_report(&r, &report);
    return 0;
}
