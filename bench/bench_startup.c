/* How long a command takes from its start until it prints certain lines:
 *     bench_startup WHO LINE LINE … -- COMMAND ARG …
 * Prints one JSON line: for each LINE the seconds until a line that begins with it came, or null,
 * as "at_1", "at_2", … The command runs to its end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

enum { MOST = 8 };

/* Reads what the command prints; at[i] is set when line i first comes. */
static void watch(FILE *from, char **lines, int n, double start, double *at) {
    char *line = NULL;
    size_t size = 0;
    while (getline(&line, &size, from) > 0)
        for (int i = 0; i < n; i++)
            if (at[i] < 0 && strncmp(line, lines[i], strlen(lines[i])) == 0)
                at[i] = ds_clock_s() - start;
    free(line);
}

static void print_result(const char *who, const double *at, int n, double total) {
    printf("{\"startup\": true, \"who\": \"%s\", ", who);
    for (int i = 0; i < n; i++)
        if (at[i] < 0)
            printf("\"at_%d\": null, ", i + 1);
        else
            printf("\"at_%d\": %.4f, ", i + 1, at[i]);
    printf("\"total_s\": %.4f}\n", total);
}

int main(int argc, char **argv) {
    int n = 0;
    double at[MOST];
    while (n < MOST && n + 2 < argc && strcmp(argv[n + 2], "--") != 0)
        at[n++] = -1;
    char **command = argv + n + 3;
    if (n == 0 || n + 3 >= argc) {
        fputs("usage: bench_startup WHO LINE … -- COMMAND ARG …\n", stderr);
        return 2;
    }
    int ends[2];
    if (pipe(ends) != 0) {
        perror("bench_startup: pipe");
        return 1;
    }
    const double start = ds_clock_s();
    const pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execvp(command[0], command);
        perror(command[0]);
        _exit(127);
    }
    close(ends[1]);
    FILE *from = fdopen(ends[0], "r");
    if (pid < 0 || !from) {
        perror("bench_startup");
        return 1;
    }
    watch(from, argv + 2, n, start, at);
    fclose(from);
    int status = 0;
    waitpid(pid, &status, 0);
    print_result(argv[1], at, n, ds_clock_s() - start);
    return status == 0 ? 0 : 1;
}
