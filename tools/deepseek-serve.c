/* deepseek-serve: a trained model behind HTTP, in OpenAI's API, with a page to talk to it. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/numbers.h"
#include "cli/speculate.h"
#include "infer/model.h"
#include "serve/server.h"

static const char TOOL[] = "deepseek-serve";

static const char USAGE[] =
    "usage: deepseek-serve --model PATH [options]\n"
    "\n"
    "Serves a trained model over HTTP, in OpenAI's API, with a chat page for the browser. PATH is\n"
    "a Hugging Face folder, a .gguf, a checkpoint or run folder of deepseek-train, a llama2.c\n"
    ".bin, or a preset's name. Of a BERT or sentence encoder it serves embeddings only. SIGTERM\n"
    "and Ctrl-C let requests at work end.\n"
    "    deepseek-serve --model out/demo\n"
    "    curl localhost:8080/v1/completions -d '{\"prompt\": \"In the\", \"max_tokens\": 20}'\n"
    "    curl localhost:8080/v1/chat/completions \\\n"
    "         -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"stream\": "
    "true}'\n"
    "    deepseek-serve --model all-MiniLM-L6-v2\n"
    "    curl localhost:8080/v1/embeddings -d '{\"input\": [\"a cat\", \"a kitten\"]}'\n"
    "\n"
    "  -m, --model PATH          what to serve\n"
    "      --name NAME           the model's name in the API (default: the folder's)\n"
    "      --host ADDRESS        where to listen (default 127.0.0.1: this machine only)\n"
    "      --port N              default 8080; 0: any free one, which is printed\n"
    "      --api-key KEY         ask clients for it; also by DEEPSEEK_API_KEY, which other users\n"
    "                            of the machine cannot see\n"
    "      --tls-cert FILE       PEM certificate and\n"
    "      --tls-key FILE        key: serve HTTPS\n"
    "      --dtype NAME          weights in memory: auto (default: as the files have them), f32,\n"
    "                            bf16, f16; or quantised while loading: int8 (inputs of\n"
    "                            products too), w8a16 (weights only), int4, int4-32, int4-128\n"
    "                            (groups of 64, 32, 128 columns); a quantised folder stays so\n"
    "      --verify              check the sums of a checkpoint's files again, even if they were\n"
    "                            right before and have not changed\n"
    "      --precision NAME      of what is computed: fp32 (default) or bf16\n"
    "      --device NAME         cpu (default) or ref\n"
    "      --threads N           default: all cores\n"
    "      --max-batch N         requests computed together (default 32)\n"
    "      --streams N           lanes that draw tokens and write answers beside the model\n"
    "                            (default 4, at most the cores)\n"
    "      --speculate WHAT[:K]  guess up to K tokens ahead, which changes no answer but takes\n"
    "                            fewer steps: ngram (what followed the same words earlier) or\n"
    "                            the path of a smaller model with the same vocabulary\n"
    "      --max-queue N         requests that may wait (default 128); more get 429\n"
    "      --max-tokens N        prompt and answer together (default: the model's most)\n"
    "      --generation-config NAME  where a request does not say how to draw: auto (default: as\n"
    "                            the folder's generation_config.json wants) or none\n"
    "      --cache-mb N          memory for keys and values (default: for --max-batch whole\n"
    "                            texts, at most a quarter of the machine's)\n"
    "      --cache-dtype NAME    keys and values as auto (default: what is computed in) or int8 "
    "(a\n"
    "                            scale for each token and head): more sequences in as much memory\n"
    "      --max-body-mb N       largest request (default 8)\n"
    "      --max-connections N   default 256\n"
    "      --timeout S           longest time for a request (default 600)\n"
    "      --drain-timeout S     longest time to end requests after SIGTERM (default 30)\n"
    "  -v, --verbose             what libmicrohttpd notes\n"
    "  -h, --help                this text\n"
    "\n"
    "Addresses: / (chat page), /v1/completions, /v1/chat/completions, /v1/embeddings, /v1/models,\n"
    "/tokenize, /health, /ready, /metrics (Prometheus).\n";

typedef struct request {
    const char *model, *tls_cert, *tls_key;
    ds_model_opts model_opts;
    ds_server_opts server;
    ds_cli_speculation speculation;
    double drain_s;
    bool verbose;
} request;

static int fail(void) {
    fprintf(stderr, "%s: %s\n", TOOL, ds_error());
    return 1;
}

static void print_note(ds_log_level level, const char *line, void *context) {
    const request *r = context;
    if (level >= DS_LOG_WARN || r->verbose)
        fprintf(stderr, "%s: %s\n", TOOL, line);
}

/* ---- options --------------------------------------------------------------------------------- */

/* Numbers are read whole or end the program: options are parsed before anything is open. */
static int64_t whole(const char *option, const char *text, int64_t low, int64_t high) {
    int64_t value = 0;
    if (!ds_cli_integer(TOOL, option, text, low, high, &value))
        exit(2);
    return value;
}

static double seconds(const char *option, const char *text, double low) {
    double value = 0;
    if (!ds_cli_real(TOOL, option, text, low, 1e6, &value))
        exit(2);
    return value;
}

static bool is_int8(const char *text) {
    if (strcmp(text, "auto") != 0 && strcmp(text, "int8") != 0) {
        fprintf(stderr, "%s: --cache-dtype must be auto or int8\n", TOOL);
        exit(2);
    }
    return *text == 'i';
}

static bool is_none(const char *text) {
    if (strcmp(text, "auto") != 0 && strcmp(text, "none") != 0) {
        fprintf(stderr, "%s: --generation-config must be auto or none\n", TOOL);
        exit(2);
    }
    return *text == 'n';
}

static ds_precision precision(const char *text) {
    if (strcmp(text, "fp32") != 0 && strcmp(text, "bf16") != 0) {
        fprintf(stderr, "%s: --precision must be fp32 or bf16\n", TOOL);
        exit(2);
    }
    return *text == 'b' ? DS_PRECISION_BF16 : DS_PRECISION_FULL;
}

enum {
    NAME = 256,
    HOST,
    PORT,
    API_KEY,
    TLS_CERT,
    TLS_KEY,
    DTYPE,
    VERIFY,
    PRECISION,
    DEVICE,
    THREADS,
    MAX_BATCH,
    STREAMS,
    SPECULATE,
    MAX_QUEUE,
    MAX_TOKENS,
    GENERATION_CONFIG,
    CACHE_MB,
    CACHE_DTYPE,
    MAX_BODY_MB,
    MAX_CONNECTIONS,
    TIMEOUT,
    DRAIN_TIMEOUT
};

static const struct option options[] = {
    {"model", required_argument, NULL, 'm'},
    {"name", required_argument, NULL, NAME},
    {"host", required_argument, NULL, HOST},
    {"port", required_argument, NULL, PORT},
    {"api-key", required_argument, NULL, API_KEY},
    {"tls-cert", required_argument, NULL, TLS_CERT},
    {"tls-key", required_argument, NULL, TLS_KEY},
    {"dtype", required_argument, NULL, DTYPE},
    {"verify", no_argument, NULL, VERIFY},
    {"precision", required_argument, NULL, PRECISION},
    {"device", required_argument, NULL, DEVICE},
    {"threads", required_argument, NULL, THREADS},
    {"max-batch", required_argument, NULL, MAX_BATCH},
    {"streams", required_argument, NULL, STREAMS},
    {"speculate", required_argument, NULL, SPECULATE},
    {"max-queue", required_argument, NULL, MAX_QUEUE},
    {"max-tokens", required_argument, NULL, MAX_TOKENS},
    {"generation-config", required_argument, NULL, GENERATION_CONFIG},
    {"cache-mb", required_argument, NULL, CACHE_MB},
    {"cache-dtype", required_argument, NULL, CACHE_DTYPE},
    {"max-body-mb", required_argument, NULL, MAX_BODY_MB},
    {"max-connections", required_argument, NULL, MAX_CONNECTIONS},
    {"timeout", required_argument, NULL, TIMEOUT},
    {"drain-timeout", required_argument, NULL, DRAIN_TIMEOUT},
    {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {0}};

static bool set_limit(request *r, int o, const char *text) {
    ds_async_executor_opts *e = &r->server.executor;
    switch (o) {
    case MAX_BATCH: e->max_batch_size = (int)whole("--max-batch", text, 1, 65536); break;
    case STREAMS: e->stream_count = (int)whole("--streams", text, 1, 256); break;
    case SPECULATE:
        if (!ds_cli_speculate(TOOL, text, &r->speculation))
            exit(2);
        break;
    case MAX_QUEUE: e->max_queue = (int)whole("--max-queue", text, 1, 1 << 20); break;
    case MAX_TOKENS: e->max_seq_len = whole("--max-tokens", text, 2, INT32_MAX); break;
    case CACHE_DTYPE: e->int8_cache = is_int8(text); break;
    case CACHE_MB: e->cache_bytes = (size_t)whole("--cache-mb", text, 1, 1 << 24) << 20; break;
    case MAX_BODY_MB:
        r->server.max_body_bytes = (size_t)whole("--max-body-mb", text, 1, 4096) << 20;
        break;
    case MAX_CONNECTIONS:
        r->server.max_connections = (int)whole("--max-connections", text, 1, 65536);
        break;
    case TIMEOUT: r->server.timeout_s = seconds("--timeout", text, 0.1); break;
    case DRAIN_TIMEOUT: r->drain_s = seconds("--drain-timeout", text, 0); break;
    default: return false;
    }
    return true;
}

static bool set_option(request *r, int o, const char *text) {
    switch (o) {
    case 'm': r->model = text; break;
    case NAME: r->server.name = text; break;
    case HOST: r->server.host = text; break;
    case PORT: r->server.port = (int)whole("--port", text, 0, 65535); break;
    case API_KEY: r->server.api_key = text; break;
    case TLS_CERT: r->tls_cert = text; break;
    case TLS_KEY: r->tls_key = text; break;
    case GENERATION_CONFIG: r->server.plain_sampling = is_none(text); break;
    case PRECISION: r->server.executor.precision = precision(text); break;
    case DTYPE: r->model_opts.dtype = text; break;
    case VERIFY: r->model_opts.verify = true; break;
    case DEVICE: r->model_opts.device = text; break;
    case THREADS: r->model_opts.n_threads = (int)whole("--threads", text, 1, 4096); break;
    case 'v': r->verbose = true; break;
    default: return set_limit(r, o, text);
    }
    return true;
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, request *r) {
    for (int o; (o = getopt_long(argc, argv, "m:vh", options, NULL)) != -1;) {
        if (o == 'h') {
            fputs(USAGE, stdout);
            return 0;
        }
        if (!set_option(r, o, optarg)) {
            fprintf(stderr, "Try `%s --help`.\n", TOOL);
            return 2;
        }
    }
    if (!r->model || optind < argc) {
        fputs(USAGE, stderr);
        return 2;
    }
    if (r->server.api_key && !*r->server.api_key) {
        fprintf(stderr, "%s: the API key is empty\n", TOOL);
        return 2;
    }
    return -1;
}

/* ---- serving --------------------------------------------------------------------------------- */

static ds_status read_tls(request *r, char **cert, char **key) {
    size_t size = 0;
    if (r->tls_cert)
        DS_TRY(ds_file_read(r->tls_cert, (size_t)1 << 20, cert, &size));
    if (r->tls_key)
        DS_TRY(ds_file_read(r->tls_key, (size_t)1 << 20, key, &size));
    r->server.tls_cert = *cert;
    r->server.tls_key = *key;
    return DS_OK;
}

static void announce(const request *r, const ds_server *server, double start_s) {
    bool recognised = false;
    const char *name = ds_server_template(server, &recognised);
    const bool is_v6 = strchr(r->server.host, ':') != NULL;
    const bool generates = ds_server_generates(server);
    if (generates && !recognised)
        fprintf(stderr,
                "%s: the model brings no chat template that is known here; conversations are "
                "written as \"User: … Assistant:\"\n",
                TOOL);
    printf("serving %s at %s://%s%s%s:%d (%s%s) after %.2f s\n",
           r->server.name ? r->server.name : r->model, r->tls_cert ? "https" : "http",
           is_v6 ? "[" : "", r->server.host, is_v6 ? "]" : "", ds_server_port(server),
           generates ? "chat template: " : "embeddings only", generates ? name : "",
           ds_clock_s() - start_s);
    fflush(stdout);
}

/* Waits for the signal to end, which all threads have blocked; a second one ends the waiting. */
static void serve_until_signal(const request *r, ds_server *server, const sigset_t *signals) {
    int which = 0;
    sigwait(signals, &which);
    fprintf(stderr, "%s: ending; requests at work have %g s (again: at once)\n", TOOL, r->drain_s);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, signals, NULL);
    const int given_up = ds_server_drain(server, r->drain_s);
    if (given_up > 0)
        fprintf(stderr, "%s: %d requests were given up\n", TOOL, given_up);
}

static ds_status serve(request *r, const sigset_t *signals, double start_s) {
    ds_model *model = NULL;
    ds_server *server = NULL;
    ds_status status = ds_model_from_pretrained(r->model, r->model_opts, &model);
    if (status == DS_OK)
        status = ds_cli_open_draft(&r->speculation, r->model_opts);
    if (status == DS_OK) {
        r->server.executor.speculate = r->speculation.opts;
        r->server.folder = model->path;
        status = ds_server_new(model, &r->server, &server);
    }
    if (status == DS_OK) {
        announce(r, server, start_s);
        serve_until_signal(r, server, signals);
    }
    ds_server_free(server);
    ds_model_free(r->speculation.opts.draft);
    ds_model_free(model);
    return status;
}

int main(int argc, char **argv) {
    const double start_s = ds_clock_s();
    static request r = {.server = {.host = "127.0.0.1",
                                   .port = 8080,
                                   .executor = {.max_queue = 128, .precision = DS_PRECISION_FULL}},
                        .drain_s = 30};
    const char *key = getenv("DEEPSEEK_API_KEY");
    r.server.api_key = key && *key ? key : NULL;
    const int early = parse(argc, argv, &r);
    if (early >= 0)
        return early;
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    ds_log_to(print_note, &r);
    char *cert = NULL, *tls_key = NULL;
    ds_status status = read_tls(&r, &cert, &tls_key);
    if (status == DS_OK)
        status = serve(&r, &signals, start_s);
    free(cert);
    free(tls_key);
    return status == DS_OK ? 0 : fail();
}
