#include "cli/supervise.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- signals --------------------------------------------------------------------------------- */

static volatile sig_atomic_t child;   /* its pid; 0: none */
static volatile sig_atomic_t n_asked; /* in the parent: signals passed on; then no restart */
static int n_direct;                  /* in the child: signals of others than the parent */
static int n_relayed;                 /* in the child: what the parent's last one was numbered */

static void pass_on(int signal) {
    n_asked++;
    if (child > 0)
        sigqueue((pid_t)child, signal, (union sigval){.sival_int = n_asked});
}

int ds_supervise_count_signal(const siginfo_t *info) {
    if (info->si_code == SI_QUEUE && info->si_pid == getppid())
        n_relayed = info->si_value.sival_int;
    else
        n_direct++;
    return n_direct > n_relayed ? n_direct : n_relayed;
}

static void stop_signals(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pause_for(double seconds) {
    const double end = now() + seconds;
    for (double left = seconds; left > 0 && !n_asked; left = end - now()) {
        const struct timespec t = {(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
        nanosleep(&t, NULL);
    }
}

static int wait_for_child(void) {
    int status = 0;
    while (waitpid((pid_t)child, &status, 0) < 0 && errno == EINTR) {
    }
    child = 0;
    return status;
}

static void describe(int status, char *out, size_t size) {
    if (WIFSIGNALED(status))
        snprintf(out, size, "was killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(out, size, "ended with status %d", WEXITSTATUS(status));
}

/* ---- lives ----------------------------------------------------------------------------------- */

/* Returns 0 in the child, its pid in the parent, -1 on failure. Signals wait until the parent knows
 * whom to pass them to, and the child no longer has the parent's handlers. */
static pid_t begin_life(void) {
    const pid_t parent = getpid();
    sigset_t signals, before;
    stop_signals(&signals);
    sigprocmask(SIG_BLOCK, &signals, &before);
    const pid_t pid = fork();
    if (pid == 0) {
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) /* it died before prctl */
            _exit(1);
    } else if (pid > 0) {
        child = (sig_atomic_t)pid;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return pid;
}

static int exit_status(int status) {
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int ds_supervise(ds_supervise_opts opts, int *restarts) {
    double backoff = opts.backoff_s;
    struct sigaction action = {.sa_handler = pass_on};
    /* one handler at a time: two would count alike */
    stop_signals(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    *restarts = 0;
    for (int in_a_row = 0; !n_asked; ++*restarts) {
        const int64_t before = opts.progress(opts.context);
        const pid_t pid = begin_life();
        if (pid == 0)
            return -1;
        if (pid < 0) {
            perror("fork");
            return 1;
        }
        const int status = wait_for_child();
        const int code = exit_status(status);
        if (n_asked || code == 0 || code == DS_EXIT_WRONG_INPUT)
            return code;
        if (opts.progress(opts.context) > before) { /* a new series of trouble */
            in_a_row = 0;
            backoff = opts.backoff_s;
        }
        char what[128];
        describe(status, what, sizeof what);
        if (in_a_row++ >= opts.max_restarts) {
            fprintf(stderr, "supervisor: the run %s; given up after %d restarts\n", what,
                    opts.max_restarts);
            return 1;
        }
        fprintf(stderr, "supervisor: the run %s; restart %d of %d in %.1f s\n", what, in_a_row,
                opts.max_restarts, backoff);
        pause_for(backoff);
        backoff = 2 * backoff < opts.max_backoff_s ? 2 * backoff : opts.max_backoff_s;
    }
    return 1; /* asked to stop between two lives */
}
