#include "cli/supervise.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t child;    /* its pid */
static volatile sig_atomic_t stopping; /* a signal was passed on: do not restart */

static void pass_on(int signal) {
    stopping = 1;
    if (child > 0)
        kill((pid_t)child, signal);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pause_for(double seconds) {
    const double end = now() + seconds;
    for (double left = seconds; left > 0 && !stopping; left = end - now()) {
        const struct timespec t = {(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
        nanosleep(&t, NULL);
    }
}

static int wait_for_child(void) {
    int status = 0;
    while (waitpid((pid_t)child, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

static void describe(int status, char *out, size_t size) {
    if (WIFSIGNALED(status))
        snprintf(out, size, "was killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(out, size, "ended with status %d", WEXITSTATUS(status));
}

enum { LIFE_S = 60 };

int ds_supervise(ds_supervise_opts opts) {
    const pid_t parent = getpid();
    double backoff = opts.backoff_s;
    struct sigaction action = {.sa_handler = pass_on};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    for (int restarts = 0;;) {
        const double start = now();
        const pid_t pid = fork();
        if (pid == 0) {
            signal(SIGINT, SIG_DFL);
            signal(SIGTERM, SIG_DFL);
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent) /* it died before prctl */
                _exit(1);
            return -1;
        }
        if (pid < 0) {
            perror("fork");
            return 1;
        }
        child = (sig_atomic_t)pid;
        const int status = wait_for_child();
        child = 0;
        if (WIFEXITED(status) &&
            (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == DS_EXIT_WRONG_INPUT))
            return WEXITSTATUS(status);
        if (stopping)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (now() - start > LIFE_S) { /* it lived: a new series of trouble */
            restarts = 0;
            backoff = opts.backoff_s;
        }
        char what[128];
        describe(status, what, sizeof what);
        if (restarts++ >= opts.max_restarts) {
            fprintf(stderr, "supervisor: the run %s; given up after %d restarts\n", what,
                    opts.max_restarts);
            return 1;
        }
        fprintf(stderr, "supervisor: the run %s; restart %d of %d in %.1f s\n", what, restarts,
                opts.max_restarts, backoff);
        pause_for(backoff);
        if (stopping)
            return 1;
        backoff = 2 * backoff < opts.max_backoff_s ? 2 * backoff : opts.max_backoff_s;
    }
}
