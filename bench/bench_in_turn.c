/* Lets programs work in turn on one machine, so that whatever slows the machine for a while slows
 * all of them alike:
 *     bench_in_turn OURS ARG … ++ PEER ARG … ++ …   < CASES
 * Each is started, and sets up and warms up alone, until it prints the line "ready". Then every
 * line of CASES is written to each program in turn, which does what it says and answers by one
 * line. At the end of CASES their standard input is closed and they may print more. What begins
 * with { goes to standard output. A program that fails is left out, and named; only when the first
 * one fails is the exit status 1. */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct program {
    char **argv; /* ends with NULL */
    pid_t pid;
    FILE *to, *from;
    bool failed;
} program;

static void give_up(program *p, const char *when) {
    fprintf(stderr, "bench_in_turn: %s %s; it is left out\n", p->argv[0], when);
    p->failed = true;
}

static void launch(program *p) {
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) {
        perror("bench_in_turn: pipe");
        exit(1);
    }
    p->pid = fork();
    if (p->pid == 0) {
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], STDOUT_FILENO);
        execvp(p->argv[0], p->argv);
        perror(p->argv[0]);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    p->to = fdopen(to[1], "w");
    p->from = fdopen(from[0], "r");
    if (p->pid < 0 || !p->to || !p->from) {
        perror("bench_in_turn: fork");
        exit(1);
    }
}

/* One line, printed if it is a result. False at the end. */
static bool take_line(program *p, char **line, size_t *size) {
    if (getline(line, size, p->from) < 0)
        return false;
    if ((*line)[0] == '{') {
        fputs(*line, stdout);
        fflush(stdout);
    }
    return true;
}

static void wait_until_ready(program *p) {
    char *line = NULL;
    size_t size = 0;
    while (take_line(p, &line, &size))
        if (strcmp(line, "ready\n") == 0) {
            free(line);
            return;
        }
    free(line);
    give_up(p, "ended before it was ready");
}

static void do_case(program *p, const char *text) {
    char *answer = NULL;
    size_t size = 0;
    if (fputs(text, p->to) < 0 || fflush(p->to) != 0 || !take_line(p, &answer, &size))
        give_up(p, "ended in the middle");
    free(answer);
}

static void finish(program *p) {
    char *line = NULL;
    size_t size = 0;
    fclose(p->to);
    while (take_line(p, &line, &size))
        ;
    free(line);
    fclose(p->from);
    int status = 0;
    if (waitpid(p->pid, &status, 0) < 0 || status != 0)
        if (!p->failed)
            give_up(p, "failed at the end");
}

/* Cuts the arguments at each "++". Returns how many programs there are. */
static int split(char **argv, program *programs, int capacity) {
    int n = 0;
    for (char **at = argv; *at && n < capacity; n++) {
        programs[n] = (program){.argv = at};
        while (*at && strcmp(*at, "++") != 0)
            at++;
        if (*at)
            *at++ = NULL;
        if (!programs[n].argv[0])
            return 0;
    }
    return n;
}

int main(int argc, char **argv) {
    enum { MOST = 8 };
    program programs[MOST];
    const int n = argc > 1 ? split(argv + 1, programs, MOST) : 0;
    if (n == 0) {
        fputs("usage: bench_in_turn OURS ARG … ++ PEER ARG … < CASES\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < n; i++) {
        launch(&programs[i]);
        wait_until_ready(&programs[i]);
    }
    char *line = NULL;
    size_t size = 0;
    while (!programs[0].failed && getline(&line, &size, stdin) > 0)
        for (int i = 0; i < n; i++)
            if (!programs[i].failed)
                do_case(&programs[i], line);
    free(line);
    for (int i = 0; i < n; i++)
        finish(&programs[i]);
    return programs[0].failed ? 1 : 0;
}
