/* deepseek-run: starts the ranks of a program on this machine. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/numbers.h"
#include "cli/supervise.h"
#include "launch/launch.h"

static const char USAGE[] =
    "usage: deepseek-run [--nproc N] [options] PROGRAM [ARGUMENT …]\n"
    "\n"
    "Starts N copies of a program, the ranks, that find each other and compute together:\n"
    "    deepseek-run --nproc 4 deepseek-train --config run.yaml\n"
    "On two machines, with the same token on both (for example: openssl rand -hex 16):\n"
    "    DS_STORE_TOKEN=… deepseek-run --nproc 8 --nnodes 2 --node-rank 0 --store 10.0.0.1:29500 "
    "PROGRAM\n"
    "    DS_STORE_TOKEN=… deepseek-run --nproc 8 --nnodes 2 --node-rank 1 --store 10.0.0.1:29500 "
    "PROGRAM\n"
    "\n"
    "Each line that a rank prints is shown whole and begins with its rank: \"[2] step 10 …\". When "
    "a\n"
    "rank fails, all others are told which and why, and ended; the exit status is that of the "
    "first\n"
    "that failed. Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are passed on to every rank.\n"
    "\n"
    "Under Slurm, Kubernetes, mpirun or torchrun this program is not needed: their variables are\n"
    "understood by every tool. deploy/slurm and deploy/kubernetes show how.\n"
    "\n"
    "  -n, --nproc N           ranks on this machine (default 1)\n"
    "      --nnodes N          machines, each with as many ranks (default 1)\n"
    "      --node-rank K       which of them this is, from 0\n"
    "      --store HOST:PORT   where ranks find each other: an address of machine 0, which listens "
    "on\n"
    "                          that one only (default: 127.0.0.1 and a free port)\n"
    "      --grace SECONDS     how long ranks may take to end after another one failed, before "
    "they\n"
    "                          are killed (default 10)\n"
    "      --no-prefix         lines as they are, without \"[rank] \"\n"
    "  -h, --help              this text\n"
    "\n"
    "Ranks see RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT, "
    "DS_STORE,\n"
    "DS_STORE_TOKEN, and OMP_NUM_THREADS: cores / N, unless it is set. Of a rank that stops "
    "answering\n"
    "(frozen, or its network gone) the others hear within two seconds.\n";

static bool with_prefix = true;

static void show_line(int rank, bool is_error, const char *line, size_t length, void *context) {
    FILE *to = is_error ? stderr : stdout;
    (void)context;
    if (rank < 0)
        fputs("deepseek-run: ", to);
    else if (with_prefix)
        fprintf(to, "[%d] ", rank);
    fwrite(line, 1, length, to);
    putc('\n', to);
    fflush(to);
}

static int usage_error(const char *message) {
    fprintf(stderr, "deepseek-run: %s\nTry: deepseek-run --help\n", message);
    return DS_EXIT_WRONG_INPUT;
}

static bool read_int(const char *option, const char *text, int low, int high, int *out) {
    int64_t value = 0;
    if (!ds_cli_integer("deepseek-run", option, text, low, high, &value))
        return false;
    *out = (int)value;
    return true;
}

enum { NNODES = 256, NODE_RANK, STORE, GRACE, NO_PREFIX };
static const struct option options[] = {
    {"nproc", required_argument, NULL, 'n'},
    {"nnodes", required_argument, NULL, NNODES},
    {"node-rank", required_argument, NULL, NODE_RANK},
    {"store", required_argument, NULL, STORE},
    {"grace", required_argument, NULL, GRACE},
    {"no-prefix", no_argument, NULL, NO_PREFIX},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* -1: go on; else the exit status. */
static int read_options(int argc, char **argv, ds_launch_opts *o) {
    /* "+": options of the program itself are not ours */
    for (int option; (option = getopt_long(argc, argv, "+n:h", options, NULL)) != -1;) {
        bool good = true;
        switch (option) {
        case 'n': good = read_int("--nproc", optarg, 1, 1024, &o->n_processes); break;
        case NNODES: good = read_int("--nnodes", optarg, 1, 65535, &o->n_nodes); break;
        case NODE_RANK: good = read_int("--node-rank", optarg, 0, 65534, &o->node_rank); break;
        case STORE: o->store = optarg; break;
        case GRACE:
            good = ds_cli_real("deepseek-run", "--grace", optarg, 0, 86400, &o->grace_s);
            break;
        case NO_PREFIX: with_prefix = false; break;
        case 'h': fputs(USAGE, stdout); return 0;
        default: return usage_error("what is this option?");
        }
        if (!good)
            return DS_EXIT_WRONG_INPUT;
    }
    return -1;
}

/* NULL, or what is wrong with options that are good one by one. */
static const char *contradiction(const ds_launch_opts *o) {
    const bool local =
        o->store && (strncmp(o->store, "127.", 4) == 0 || strncmp(o->store, "localhost:", 10) == 0);
    if (!o->argv[0])
        return "no program: deepseek-run --nproc 2 PROGRAM …";
    if (o->node_rank >= o->n_nodes)
        return "--node-rank counts from 0 to --nnodes - 1";
    if (o->n_nodes > 1 && !o->store)
        return "several machines need --store HOST:PORT, an address of machine 0";
    if (o->n_nodes > 1 && !local && !o->token)
        return "several machines need the same secret: set DS_STORE_TOKEN on all of them, for "
               "example "
               "to the output of `openssl rand -hex 16`";
    if (o->n_nodes * o->n_processes > 65535)
        return "more than 65535 ranks";
    return NULL;
}

int main(int argc, char **argv) {
    ds_launch_opts o = {.n_processes = 1, .n_nodes = 1, .grace_s = 10, .on_line = show_line};
    const int status = read_options(argc, argv, &o);
    if (status >= 0)
        return status;
    o.argv = argv + optind;
    const char *token = getenv("DS_STORE_TOKEN");
    o.token = token && *token ? token : NULL;
    const char *wrong = contradiction(&o);
    if (wrong)
        return usage_error(wrong);
    int exit_status = 1;
    if (ds_launch(o, &exit_status) != DS_OK) {
        fprintf(stderr, "deepseek-run: %s\n", ds_error());
        return 1;
    }
    return exit_status;
}
