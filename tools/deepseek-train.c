/* deepseek-train: trains a model as a YAML file says. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/text.h"
#include "cli/supervise.h"
#include "deepseek/train.h"
#include "train/checkpoint.h"

static const char USAGE[] =
    "usage: deepseek-train --config FILE [options] [key=value …]\n"
    "\n"
    "Trains a language model on text, or on token files made by `deepseek-tokenize encode`. What "
    "to\n"
    "train, on what and how is said by the YAML file; every key can be overridden on the command\n"
    "line, the last word wins:\n"
    "    deepseek-train --config configs/demo.yaml optimizer.learning_rate=5e-4 "
    "training.steps=200\n"
    "Several processes share every batch where they are started together (data parallelism):\n"
    "    deepseek-run --nproc 2 deepseek-train --config configs/demo.yaml\n"
    "The run folder (checkpoint.directory) gets checkpoints in Hugging Face's layout, "
    "metrics.jsonl,\n"
    "TensorBoard events and loss.svg. Ctrl-C saves and ends; the same command goes on from there.\n"
    "\n"
    "  -c, --config FILE       the configuration (docs/config.md describes every key)\n";

static const char MORE_USAGE[] =
    "      --dry-run           check everything, print the plan and its memory, and stop;\n"
    "                          data may still be missing, and the plan says so\n"
    "      --print-graph[=AS]  print the graph after each pass, and the planned program, as text\n"
    "                          or as dot (Graphviz), and stop\n"
    "      --supervise         restart from the newest whole checkpoint after a crash\n"
    "      --help-keys         every key of the configuration with its default\n"
    "      --schema            the configuration as a JSON schema\n"
    "  -h, --help              this text\n"
    "      --version           the version\n"
    "\n"
    "Exit status: 0 done or stopped and saved, 1 failed, 2 wrong usage, configuration or data\n"
    "(--supervise does not start such a run again).\n";

enum { FAILED = 1 }; /* exit status */

/* Flags for keys that are often given: --NAME VALUE is KEY=VALUE. The first has a letter, -o. */
static const struct key_flag {
    const char *name, *argument, *key, *help;
} key_flags[] = {
    {"output", "DIR", "checkpoint.directory", "the run folder"},
    {"data", "PATH", "data.train", "what to learn from"},
    {"tokenizer", "FILE", "data.tokenizer", "tokenizer.json"},
    {"model", "NAME", "model.preset", "a preset, or a folder with config.json"},
    {"steps", "N", "training.steps", "optimizer steps"},
    {"micro-batch", "N", "training.micro_batch", "samples at once"},
    {"seq-len", "N", "data.seq_len", "tokens a sample"},
    {"learning-rate", "X", "optimizer.learning_rate", "after warm-up"},
    {"seed", "N", "training.seed", "of initial weights and dropout"},
    {"precision", "NAME", "precision", "bf16, fp16 or fp32"},
    {"resume", "WHAT", "checkpoint.resume", "auto (the newest whole checkpoint), never, or one"},
    {"threads", "N", "threads", "CPU threads"},
    {"device", "NAME", "device", "cpu or ref"},
};
enum { N_KEY_FLAGS = sizeof key_flags / sizeof *key_flags };

static const struct precision_name {
    const char *name, *value;
} precisions[] = {
    {"bf16", "{mode: mixed, fp16: false, bf16: true}"},
    {"fp16", "{mode: mixed, fp16: true, bf16: false}"},
    {"fp32", "{mode: full, fp16: false, bf16: false}"},
};

typedef struct arguments {
    const char *config;
    char **overrides; /* [n_overrides], owned */
    size_t n_overrides, capacity;
    bool dry_run, print_graph, dot, supervise;
} arguments;

static void print_usage(FILE *out) {
    fputs(USAGE, out);
    for (int i = 0; i < N_KEY_FLAGS; i++) {
        const struct key_flag *f = &key_flags[i];
        char option[64];
        snprintf(option, sizeof option, "--%s %s", f->name, f->argument);
        fprintf(out, "  %s %-19s %s (%s)\n", i == 0 ? "-o," : "   ", option, f->help, f->key);
    }
    fputs(MORE_USAGE, out);
}

/* Adds "KEY=VALUE", or KEY itself, which then holds both. -1, or the exit status. */
static int add_override(arguments *a, const char *key, const char *value) {
    char **grown = ds_grow(a->overrides, &a->capacity, a->n_overrides + 1, sizeof *grown);
    ds_text text = {0};
    ds_text_printf(&text, "%s%s%s", key, value ? "=" : "", value ? value : "");
    char *override = grown ? ds_text_take(&text) : NULL;
    ds_text_clear(&text);
    if (grown)
        a->overrides = grown;
    if (!override) {
        fputs("deepseek-train: out of memory\n", stderr);
        return FAILED;
    }
    a->overrides[a->n_overrides++] = override;
    return -1;
}

static int take_key_flag(arguments *a, const struct key_flag *f, const char *value) {
    if (strcmp(f->key, "precision") != 0)
        return add_override(a, f->key, value);
    for (size_t i = 0; i < sizeof precisions / sizeof *precisions; i++)
        if (strcmp(precisions[i].name, value) == 0)
            return add_override(a, f->key, precisions[i].value);
    fprintf(stderr, "deepseek-train: --precision %s: should be bf16, fp16 or fp32\n", value);
    return DS_EXIT_WRONG_INPUT;
}

static int print_owned(char *text) {
    fputs(text ? text : "out of memory\n", stdout);
    free(text);
    return 0;
}

enum { DRY_RUN = 256, PRINT_GRAPH, SUPERVISE, HELP_KEYS, SCHEMA, VERSION, KEY_FLAG };

static const struct option plain_options[] = {{"config", required_argument, NULL, 'c'},
                                              {"dry-run", no_argument, NULL, DRY_RUN},
                                              {"print-graph", optional_argument, NULL, PRINT_GRAPH},
                                              {"supervise", no_argument, NULL, SUPERVISE},
                                              {"help-keys", no_argument, NULL, HELP_KEYS},
                                              {"schema", no_argument, NULL, SCHEMA},
                                              {"version", no_argument, NULL, VERSION},
                                              {"help", no_argument, NULL, 'h'}};
enum { N_PLAIN = sizeof plain_options / sizeof *plain_options };

/* -1: go on; else the exit status. */
static int take_option(arguments *a, int option) {
    if (option >= KEY_FLAG)
        return take_key_flag(a, &key_flags[option - KEY_FLAG], optarg);
    switch (option) {
    case 'c': a->config = optarg; return -1;
    case DRY_RUN: a->dry_run = true; return -1;
    case SUPERVISE: a->supervise = true; return -1;
    case PRINT_GRAPH:
        a->print_graph = true;
        a->dot = optarg && strcmp(optarg, "dot") == 0;
        if (!optarg || a->dot || strcmp(optarg, "text") == 0)
            return -1;
        fprintf(stderr, "deepseek-train: --print-graph=%s: the graph is printed as text or dot\n",
                optarg);
        return DS_EXIT_WRONG_INPUT;
    case HELP_KEYS: return print_owned(ds_train_config_help());
    case SCHEMA: return print_owned(ds_train_config_schema());
    case VERSION: puts("deepseek-train " DS_VERSION); return 0;
    case 'h': print_usage(stdout); return 0;
    default: fputs("Try `deepseek-train --help`.\n", stderr); return DS_EXIT_WRONG_INPUT;
    }
}

/* -1: go on; else the exit status. */
static int parse(int argc, char **argv, arguments *a) {
    struct option options[N_PLAIN + N_KEY_FLAGS + 1] = {0};
    int early = -1;
    memcpy(options, plain_options, sizeof plain_options);
    for (int i = 0; i < N_KEY_FLAGS; i++)
        options[N_PLAIN + i] =
            (struct option){key_flags[i].name, required_argument, NULL, KEY_FLAG + i};
    for (int o; early < 0 && (o = getopt_long(argc, argv, "c:o:h", options, NULL)) != -1;)
        early = take_option(a, o == 'o' ? KEY_FLAG : o);
    for (int i = optind; i < argc && early < 0; i++) {
        early = add_override(a, argv[i], NULL);
        if (!strchr(argv[i], '=')) {
            fprintf(stderr, "deepseek-train: \"%s\" is not key=value\n", argv[i]);
            early = DS_EXIT_WRONG_INPUT;
        }
    }
    if (early < 0 && !a->config) {
        print_usage(stderr);
        early = DS_EXIT_WRONG_INPUT;
    }
    return early;
}

/* ---- signals ------------------------------------------------------------------------------------
 * A thread waits for them and no handler is installed: oneDNN's kernels use the stack pointer as
 * one more register, and the frame of a handler would be written over whatever it points to. */

typedef struct stop_watch {
    pthread_t thread;
    sigset_t signals;
    _Atomic(ds_trainer *) running; /* NULL: not made yet, there is nothing to save */
    atomic_bool ended;             /* the signal that comes now is only to say so */
    double deadline_s;             /* for the last checkpoint, from the first signal on */
} stop_watch;

static void pass_deadline(void) {
    static const char text[] = "\ndeepseek-train: the deadline passed before the checkpoint was "
                               "written; the one before it is whole\n";
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    _exit(FAILED);
}

static void *wait_for_signals(void *context) {
    stop_watch *watch = context;
    double end_s = 0; /* on the clock; 0: not stopping */
    for (;;) {
        siginfo_t info;
        const double left_s = end_s > 0 ? fmax(end_s - ds_clock_s(), 0) : 0;
        const struct timespec left = {(time_t)left_s, (long)(fmod(left_s, 1) * 1e9)};
        const int signal = end_s > 0 ? sigtimedwait(&watch->signals, &info, &left)
                                     : sigwaitinfo(&watch->signals, &info);
        if (atomic_load(&watch->ended))
            return NULL;
        if (signal < 0 && errno == EAGAIN)
            pass_deadline();
        if (signal < 0)
            continue;
        ds_trainer *trainer = atomic_load(&watch->running);
        if (ds_supervise_count_signal(&info) > 1 || !trainer)
            _exit(128 + signal); /* asked twice: at once */
        ds_trainer_stop(trainer);
        if (end_s == 0)
            end_s = ds_clock_s() + watch->deadline_s;
    }
}

/* Before any other thread is there: all inherit what is blocked. */
static bool watch_begin(stop_watch *watch) {
    sigemptyset(&watch->signals);
    sigaddset(&watch->signals, SIGINT);
    sigaddset(&watch->signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &watch->signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    return pthread_create(&watch->thread, NULL, wait_for_signals, watch) == 0;
}

static void watch_end(stop_watch *watch) {
    atomic_store(&watch->ended, true);
    pthread_kill(watch->thread, SIGINT);
    pthread_join(watch->thread, NULL);
}

static void print_stage(const char *stage, const ds_graph *g, void *context) {
    const arguments *a = context;
    printf(a->dot ? "// after %s\n" : "# after %s\n", stage);
    ds_graph_print(g, stdout, a->dot);
}

static void print_plan(const ds_program *program, void *context) {
    const arguments *a = context;
    puts(a->dot ? "// after plan" : "# after plan");
    ds_program_print(program, stdout, a->dot);
}

static int fail(void) {
    fprintf(stderr, "deepseek-train: %s\n", ds_error());
    return FAILED;
}

/* What is wrong before the first step, and would be wrong again, is the user's to put right: the
 * supervisor does not try such a run again. Memory and the file system may be better next time. */
static int fail_to_start(ds_status status) {
    fail();
    const bool is_lasting = status == DS_INVALID || status == DS_NOT_FOUND ||
                            status == DS_CORRUPT || status == DS_UNSUPPORTED;
    return is_lasting ? DS_EXIT_WRONG_INPUT : FAILED;
}

/* --dry-run and --print-graph. */
static int show_plan(const ds_train_config *config, arguments *a) {
    ds_trainer_opts opts = {.progress_fd = -1, .plan_only = true};
    if (a->print_graph) {
        opts.on_stage = print_stage;
        opts.on_plan = print_plan;
        opts.context = a;
    }
    ds_trainer *trainer = NULL;
    const ds_status made = ds_trainer_new(config, opts, &trainer);
    if (made != DS_OK)
        return fail_to_start(made);
    if (a->dry_run)
        ds_trainer_print_plan(trainer, stdout);
    ds_trainer_free(trainer);
    return 0;
}

static int train(const ds_train_config *config, ds_comm *comm) {
    static stop_watch watch;
    watch.deadline_s = config->checkpoint.deadline_s;
    if (!watch_begin(&watch)) {
        fputs("deepseek-train: no thread could be made\n", stderr);
        return FAILED;
    }
    const ds_trainer_opts opts = {.progress_fd = ds_comm_rank(comm) == 0 ? STDOUT_FILENO : -1,
                                  .comm = comm};
    ds_trainer *trainer = NULL;
    const ds_status made = ds_trainer_new(config, opts, &trainer);
    if (made != DS_OK)
        return fail_to_start(made);
    atomic_store(&watch.running, trainer);
    const int status = ds_trainer_run(trainer) == DS_OK ? 0 : fail();
    watch_end(&watch);
    ds_trainer_free(trainer);
    return status;
}

static int train_alone(const ds_train_config *config) {
    ds_comm *self = NULL;
    if (ds_comm_open((ds_comm_opts){.transport = "self", .size = 1}, &self) != DS_OK)
        return fail();
    const int status = train(config, self);
    ds_comm_close(self);
    return status;
}

/* The step of the newest checkpoint, which the next life of the run would go on from. */
static int64_t checkpointed_step(void *context) {
    const ds_train_config *config = context;
    char folder[PATH_MAX], path[PATH_MAX];
    snprintf(folder, sizeof folder, "%s/checkpoints", config->checkpoint.directory);
    return ds_checkpoint_newest(folder, path);
}

/* Tells the newest checkpoint from any other, whatever their names; 0: there is none. */
static ino_t newest_checkpoint(const ds_train_config *config) {
    char folder[PATH_MAX], path[PATH_MAX];
    struct stat st;
    snprintf(folder, sizeof folder, "%s/checkpoints", config->checkpoint.directory);
    return ds_checkpoint_newest(folder, path) >= 0 && stat(path, &st) == 0 ? st.st_ino : 0;
}

/* Works under a supervisor. A life after the first goes on from what the ones before it wrote,
 * whatever checkpoint.resume said to the first. */
static int supervised(ds_train_config *config) {
    static char own[] = "auto";
    const ds_supervise_opts opts = {.max_restarts = config->supervise.max_restarts,
                                    .backoff_s = config->supervise.backoff_s,
                                    .max_backoff_s = config->supervise.max_backoff_s,
                                    .progress = checkpointed_step,
                                    .context = config};
    const ino_t first = newest_checkpoint(config);
    int restarts = 0;
    const int status = ds_supervise(opts, &restarts);
    if (status >= 0)
        return status;
    char *const resume = config->checkpoint.resume;
    const ino_t newest = restarts > 0 ? newest_checkpoint(config) : 0;
    if (newest != 0 && newest != first)
        config->checkpoint.resume = own;
    const int ended = train_alone(config);
    config->checkpoint.resume = resume;
    return ended;
}

static int run_configured(const ds_train_config *config, arguments *a, ds_comm *comm) {
    if (a->dry_run || a->print_graph)
        return ds_comm_rank(comm) == 0 ? show_plan(config, a) : 0;
    if (ds_comm_size(comm) == 1)
        return -1;
    if (!a->supervise && !config->supervise.enabled)
        return train(config, comm);
    fputs("deepseek-train: --supervise restarts one process; of several ranks, the launcher ends "
          "all when one fails: leave it out, and start the run again\n",
          stderr);
    return DS_EXIT_WRONG_INPUT;
}

/* Signals are blocked before the communicator's threads are there; a supervisor, which has no
 * ranks, wants them as they were. */
static int run(arguments *a) {
    ds_train_config config;
    ds_comm *comm = NULL;
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, &before);
    if (ds_comm_open((ds_comm_opts){0}, &comm) != DS_OK)
        return fail();
    if (ds_train_config_load_ranks(a->config, (const char *const *)a->overrides, a->n_overrides,
                                   ds_comm_size(comm), &config) != DS_OK) {
        fail();
        ds_comm_abort(comm, ds_error());
        ds_comm_close(comm);
        return DS_EXIT_WRONG_INPUT;
    }
    int status = run_configured(&config, a, comm);
    ds_comm_close(comm);
    if (status < 0) {
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        status =
            a->supervise || config.supervise.enabled ? supervised(&config) : train_alone(&config);
    }
    ds_train_config_free(&config);
    return status;
}

int main(int argc, char **argv) {
    arguments a = {0};
    int status = parse(argc, argv, &a);
    if (status < 0)
        status = run(&a);
    for (size_t i = 0; i < a.n_overrides; i++)
        free(a.overrides[i]);
    free(a.overrides);
    return status;
}
