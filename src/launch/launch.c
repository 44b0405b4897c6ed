#include "launch/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/rand.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "comm/store.h"
#include "comm/store_wire.h"
#include "launch/lines.h"

enum { OUTPUT, ERRORS, STREAMS };
/* After a failure the others hear of it by the store, say so, and end by themselves; whoever has
 * not after this long is asked to by SIGTERM. */
static const double ASK_S = 1;
static const int PASSED_ON[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
enum { N_PASSED_ON = sizeof PASSED_ON / sizeof *PASSED_ON };

typedef struct child {
    int rank;        /* among all ranks */
    pid_t pid;       /* 0: has ended */
    int fd[STREAMS]; /* −1: closed */
    ds_text pending[STREAMS];
} child;

typedef struct launch {
    ds_launch_opts opts;
    child *children; /* [n_processes] */
    int n_alive;
    ds_store_server *server; /* on machine 0 */
    char store[300], token[64];
    int signals; /* signalfd */
    sigset_t before;
    int exit_status, n_asked;
    bool failed, asked, killed, told_verdict;
    double failed_s;
} launch;

/* ---- notes ----------------------------------------------------------------------------------- */

static void note(launch *l, const char *fmt, ...) DS_PRINTF(2, 3);

static void note(launch *l, const char *fmt, ...) {
    char line[DS_ABORT_TEXT + 128];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    l->opts.on_line(-1, true, line, strlen(line), l->opts.context);
}

typedef struct origin { /* of a line */
    launch *l;
    int rank;
    bool is_error;
} origin;

static void pass_line(const char *line, size_t length, void *context) {
    const origin *o = context;
    o->l->opts.on_line(o->rank, o->is_error, line, length, o->l->opts.context);
}

/* Everything that has come through a pipe; its end closes it. */
static void read_stream(launch *l, child *c, int stream) {
    char buffer[16384];
    origin from = {l, c->rank, stream == ERRORS};
    while (c->fd[stream] >= 0) {
        const ssize_t n = read(c->fd[stream], buffer, sizeof buffer);
        if (n > 0) {
            ds_lines_take(&c->pending[stream], buffer, (size_t)n, pass_line, &from);
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        close(c->fd[stream]);
        c->fd[stream] = -1;
        ds_lines_finish(&c->pending[stream], pass_line, &from);
    }
}

/* ---- starting -------------------------------------------------------------------------------- */

static void set_number(const char *name, int value) {
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

static void set_environment(const launch *l, int local_rank) {
    const ds_launch_opts *o = &l->opts;
    set_number("RANK", o->node_rank * o->n_processes + local_rank);
    set_number("WORLD_SIZE", o->n_nodes * o->n_processes);
    set_number("LOCAL_RANK", local_rank);
    set_number("LOCAL_WORLD_SIZE", o->n_processes);
    set_number("GROUP_RANK", o->node_rank);
    char host[300];
    snprintf(host, sizeof host, "%s", l->store);
    char *colon = strrchr(host, ':');
    if (colon) {
        *colon = '\0';
        setenv("MASTER_ADDR", host, 1);
        setenv("MASTER_PORT", colon + 1, 1);
    }
    setenv("DS_STORE", l->store, 1);
    setenv("DS_STORE_TOKEN", l->token, 1);
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (!getenv("OMP_NUM_THREADS")) /* together the ranks use each core once */
        set_number("OMP_NUM_THREADS", cores > o->n_processes ? (int)(cores / o->n_processes) : 1);
}

/* In the child: never returns. A process group of its own, so that Ctrl-C in a terminal reaches it
 * once, through the launcher, and so that what it starts can be ended with it. */
static void become(const launch *l, int local_rank, const int pipes[STREAMS], pid_t parent) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    const int none = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (none < 0 || dup2(none, STDIN_FILENO) < 0 || dup2(pipes[OUTPUT], STDOUT_FILENO) < 0 ||
        dup2(pipes[ERRORS], STDERR_FILENO) < 0)
        _exit(126);
    set_environment(l, local_rank);
    sigprocmask(SIG_SETMASK, &l->before, NULL);
    execvp(l->opts.argv[0], l->opts.argv);
    dprintf(STDERR_FILENO, "cannot run %s: %s\n", l->opts.argv[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

static ds_status start_child(launch *l, int local_rank) {
    child *c = &l->children[local_rank];
    int ends[STREAMS] = {-1, -1};
    ds_status status = DS_OK;
    for (int i = 0; i < STREAMS && status == DS_OK; i++) {
        int pair[2];
        if (pipe2(pair, O_CLOEXEC) != 0) {
            status = ds_fail_errno("a pipe for rank %d", c->rank);
            break;
        }
        c->fd[i] = pair[0];
        ends[i] = pair[1];
        fcntl(pair[0], F_SETFL, O_NONBLOCK);
    }
    const pid_t parent = getpid();
    if (status == DS_OK) {
        c->pid = fork();
        if (c->pid == 0)
            become(l, local_rank, ends, parent);
        if (c->pid < 0) {
            c->pid = 0;
            status = ds_fail_errno("cannot start rank %d", c->rank);
        } else {
            setpgid(c->pid, c->pid); /* here as well: whoever comes first */
            l->n_alive++;
        }
    }
    for (int i = 0; i < STREAMS; i++)
        if (ends[i] >= 0)
            close(ends[i]);
    return status;
}

/* ---- ending ---------------------------------------------------------------------------------- */

static void signal_all(launch *l, int signal, bool groups) {
    for (int i = 0; i < l->opts.n_processes; i++)
        if (l->children[i].pid > 0)
            kill(groups ? -l->children[i].pid : l->children[i].pid, signal);
}

/* Tells the ranks, of all machines, of what one of them died: they may be waiting for it. */
static void tell_store(launch *l, const char *reason) {
    if (l->server) {
        ds_store_server_abort(l->server, DS_UNAVAILABLE, reason);
        return;
    }
    ds_store *store = NULL;
    const uint8_t status = DS_UNAVAILABLE;
    if (ds_store_connect(l->store, l->token, -1, 1, &store) != DS_OK)
        return; /* then machine 0 is gone, and its ranks' leases with it */
    const ds_status sent = ds_store_send(store, &(ds_frame){.op = DS_FRAME_ABORT,
                                                            .key = &status,
                                                            .key_size = 1,
                                                            .value = (const uint8_t *)reason,
                                                            .value_size = strlen(reason)});
    ds_frame answer;
    if (sent != DS_OK || ds_store_receive(store, 1, &answer) != DS_OK)
        note(l, "the store could not be told: %s", ds_error());
    ds_store_close(store);
}

/* The first word on why it ends. */
static void begin_end(launch *l, const char *reason, int exit_status) {
    if (l->failed)
        return;
    l->failed = true;
    l->failed_s = ds_clock_s();
    l->exit_status = exit_status;
    note(l, "%s; ending the other ranks", reason);
    tell_store(l, reason);
}

static void describe(const child *c, pid_t pid, int status, char *out, size_t size) {
    if (WIFSIGNALED(status))
        snprintf(out, size, "rank %d (process %d) was killed by signal %d (%s)", c->rank, (int)pid,
                 WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(out, size, "rank %d (process %d) ended with status %d", c->rank, (int)pid,
                 WEXITSTATUS(status));
}

static void bury(launch *l, child *c, int status) {
    char what[256];
    const pid_t pid = c->pid;
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    c->pid = 0;
    l->n_alive--;
    for (int i = 0; i < STREAMS; i++) /* its last words come before the note */
        read_stream(l, c, i);
    if (code == 0)
        return;
    kill(-pid, SIGKILL); /* what it started and left behind */
    describe(c, pid, status, what, sizeof what);
    if (!l->failed)
        begin_end(l, what, code);
    else if (l->exit_status == 0) /* the store spoke first; this is the first that ended */
        l->exit_status = code;
}

static void reap(launch *l) {
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        for (int i = 0; i < l->opts.n_processes; i++)
            if (l->children[i].pid == pid) {
                bury(l, &l->children[i], status);
                break;
            }
}

/* A rank that is stopped ends no process; the store notices, and its word comes first then. */
static void heed_store(launch *l) {
    char reason[DS_ABORT_TEXT];
    if (!l->server || l->failed || ds_store_server_reason(l->server, reason) == DS_OK)
        return;
    l->failed = true;
    l->failed_s = ds_clock_s();
    note(l, "%s; ending the other ranks", reason);
}

static void press(launch *l) {
    const double since = l->failed ? ds_clock_s() - l->failed_s : 0;
    if (l->failed && !l->asked && since > ASK_S) {
        l->asked = true;
        signal_all(l, SIGTERM, false);
        signal_all(l, SIGCONT, false); /* one that is stopped takes no other */
    }
    if (l->failed && !l->killed && since > ASK_S + l->opts.grace_s) {
        l->killed = true;
        if (l->n_alive > 0)
            note(l, "%d of the ranks did not end within %.3g s and are killed", l->n_alive,
                 ASK_S + l->opts.grace_s);
        signal_all(l, SIGKILL, true);
    }
}

/* ---- running --------------------------------------------------------------------------------- */

static void heed_signals(launch *l) {
    struct signalfd_siginfo info;
    while (read(l->signals, &info, sizeof info) == sizeof info) {
        const int signal = (int)info.ssi_signo;
        if (signal == SIGCHLD)
            continue;
        const bool ends = signal == SIGINT || signal == SIGTERM;
        l->n_asked += ends;
        /* twice is the program's affair (save, then end at once); a third time is meant */
        signal_all(l, ends && l->n_asked > 2 ? SIGKILL : signal, ends && l->n_asked > 2);
    }
    reap(l);
}

static void wait_for_something(launch *l, struct pollfd *polled) {
    enum { TICK_MS = 50 };
    const int n = l->opts.n_processes;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < STREAMS; k++)
            polled[i * STREAMS + k] = (struct pollfd){.fd = l->children[i].fd[k], .events = POLLIN};
    polled[n * STREAMS] = (struct pollfd){.fd = l->signals, .events = POLLIN};
    if (poll(polled, (nfds_t)(n * STREAMS + 1), TICK_MS) <= 0)
        return;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < STREAMS; k++)
            if (polled[i * STREAMS + k].revents)
                read_stream(l, &l->children[i], k);
}

static ds_status run(launch *l) {
    const int n = l->opts.n_processes;
    struct pollfd *polled = ds_calloc((size_t)n * STREAMS + 1, sizeof *polled);
    if (!polled)
        return DS_OUT_OF_MEMORY;
    ds_status status = DS_OK;
    for (int i = 0; i < n && status == DS_OK; i++)
        status = start_child(l, i);
    if (status != DS_OK)
        signal_all(l, SIGKILL, true);
    while (l->n_alive > 0) {
        wait_for_something(l, polled);
        heed_signals(l);
        heed_store(l);
        press(l);
    }
    for (int i = 0; i < n; i++)
        for (int k = 0; k < STREAMS; k++)
            read_stream(l, &l->children[i], k);
    free(polled);
    return status;
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static ds_status choose_token(launch *l) {
    if (l->opts.token) {
        if (strlen(l->opts.token) >= sizeof l->token)
            return ds_fail(DS_INVALID, "a token of %zu characters; fewer than %zu are possible",
                           strlen(l->opts.token), sizeof l->token);
        snprintf(l->token, sizeof l->token, "%s", l->opts.token);
        return DS_OK;
    }
    unsigned char bytes[16];
    if (RAND_bytes(bytes, sizeof bytes) != 1)
        return ds_fail(DS_IO, "no random numbers for the token");
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(l->token + 2 * i, 3, "%02x", bytes[i]);
    return DS_OK;
}

static ds_status open_store(launch *l) {
    const ds_launch_opts *o = &l->opts;
    snprintf(l->store, sizeof l->store, "%s", o->store ? o->store : "127.0.0.1:0");
    if (o->node_rank != 0)
        return DS_OK;
    DS_TRY(ds_store_server_start((ds_store_server_opts){.address = l->store,
                                                        .token = l->token,
                                                        .size = o->n_nodes * o->n_processes},
                                 &l->server));
    snprintf(l->store, sizeof l->store, "%s", ds_store_server_address(l->server));
    return DS_OK;
}

static ds_status hold_signals(launch *l) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    for (int i = 0; i < N_PASSED_ON; i++)
        sigaddset(&set, PASSED_ON[i]);
    sigprocmask(SIG_BLOCK, &set, &l->before);
    l->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return l->signals >= 0 ? DS_OK : ds_fail_errno("signals");
}

static void release(launch *l) {
    for (int i = 0; i < l->opts.n_processes && l->children; i++)
        for (int k = 0; k < STREAMS; k++) {
            if (l->children[i].fd[k] >= 0)
                close(l->children[i].fd[k]);
            ds_text_clear(&l->children[i].pending[k]);
        }
    free(l->children);
    if (l->signals >= 0)
        close(l->signals);
    sigprocmask(SIG_SETMASK, &l->before, NULL);
}

ds_status ds_launch(ds_launch_opts opts, int *exit_status) {
    launch l = {.opts = opts, .signals = -1};
    *exit_status = 1;
    sigprocmask(SIG_BLOCK, NULL, &l.before);
    l.children = ds_calloc((size_t)opts.n_processes, sizeof *l.children);
    if (!l.children)
        return DS_OUT_OF_MEMORY;
    for (int i = 0; i < opts.n_processes; i++)
        l.children[i] = (child){.rank = opts.node_rank * opts.n_processes + i, .fd = {-1, -1}};
    ds_status status = choose_token(&l);
    if (status == DS_OK)
        status = hold_signals(&l); /* before any thread, which inherits what is held */
    if (status == DS_OK)
        status = open_store(&l);
    if (status == DS_OK)
        status = run(&l);
    /* ranks of other machines may still be taking leave */
    ds_store_server_stop(l.server, l.failed || status != DS_OK ? 1 : 5);
    if (status == DS_OK)
        *exit_status = l.failed && l.exit_status == 0 ? 1 : l.exit_status;
    release(&l);
    return status;
}
