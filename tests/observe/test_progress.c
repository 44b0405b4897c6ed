/* The display: plain lines where there is no terminal; on one, at most ten redraws a second, never
 * wider than the window. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "observe/progress.h"

static const ds_progress_fields example = {.step = 1234,
                                           .steps = 6000,
                                           .loss = 3.21449,
                                           .validation_loss = NAN,
                                           .learning_rate = 9.8e-4,
                                           .grad_norm = 0.42,
                                           .tokens_per_s = 12345,
                                           .flops_per_s = 410e9,
                                           .peak_flops_per_s = 1000e9,
                                           .memory_bytes = 1.2 * (1 << 30),
                                           .elapsed_s = 60,
                                           .seconds_left = 185,
                                           .loss_scale = NAN};

/* What can be read from fd now. */
static size_t drain(int fd, char *out, size_t size) {
    size_t n = 0;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    for (ssize_t got; n + 1 < size && (got = read(fd, out + n, size - n - 1)) > 0;)
        n += (size_t)got;
    out[n] = '\0';
    return n;
}

static void test_plain_lines(void **state) {
    (void)state;
    int pipe_fds[2];
    char text[8192];
    assert_int_equal(pipe(pipe_fds), 0);
    ds_progress *p = ds_progress_new(pipe_fds[1], 10);
    assert_non_null(p);
    assert_false(ds_progress_is_live(p));
    ds_progress_fields f = example;
    f.steps = 24;
    for (f.step = 1; f.step <= 23; f.step++)
        ds_progress_update(p, &f);
    ds_progress_note(p, "checkpoint %s", "out/demo");
    ds_progress_free(p);
    drain(pipe_fds[0], text, sizeof text);
    assert_string_equal(
        text,
        "step 1/24  loss 3.2145  lr 9.80e-04  grad 0.42  12.3 k tok/s  410.0 GFLOP/s (41 % of "
        "peak)  1.20 GiB  3 min 05 s left\n"
        "step 10/24  loss 3.2145  lr 9.80e-04  grad 0.42  12.3 k tok/s  410.0 GFLOP/s (41 % of "
        "peak)  1.20 GiB  3 min 05 s left\n"
        "step 20/24  loss 3.2145  lr 9.80e-04  grad 0.42  12.3 k tok/s  410.0 GFLOP/s (41 % of "
        "peak)  1.20 GiB  3 min 05 s left\n"
        "checkpoint out/demo\n"
        "step 23/24  loss 3.2145  lr 9.80e-04  grad 0.42  12.3 k tok/s  410.0 GFLOP/s (41 % of "
        "peak)  1.20 GiB  3 min 05 s left\n");
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void open_terminal(int *master, int *slave, unsigned short columns) {
    const struct winsize size = {.ws_row = 24, .ws_col = columns};
    assert_int_equal(openpty(master, slave, NULL, NULL, &size), 0);
    struct termios raw;
    tcgetattr(*slave, &raw);
    cfmakeraw(&raw);
    tcsetattr(*slave, TCSANOW, &raw);
}

/* The widest line of what a terminal would show, escape sequences aside. */
static int widest(const char *text) {
    int width = 0, most = 0;
    for (const char *s = text; *s; s++) {
        if (*s == '\x1b') {
            while (*s && !((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z')))
                s++;
        } else if (*s == '\n' || *s == '\r') {
            width = 0;
        } else if (((unsigned char)*s & 0xc0) != 0x80) {
            width++;
        }
        most = width > most ? width : most;
    }
    return most;
}

static void test_live(void **state) {
    (void)state;
    int master = -1, slave = -1;
    static char text[1 << 16];
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    open_terminal(&master, &slave, 100);
    ds_progress *p = ds_progress_new(slave, 10);
    assert_true(ds_progress_is_live(p));
    const double start = ds_clock_s();
    for (int i = 0; i < 10000; i++)
        ds_progress_update(p, &example);
    const double seconds = ds_clock_s() - start;
    drain(master, text, sizeof text);
    int redraws = 0;
    for (const char *s = text; (s = strstr(s, "step 1,234/6,000")); s++)
        redraws++;
    assert_true(redraws >= 1 && redraws <= 1 + (int)(seconds / 0.1));
    assert_non_null(strstr(text, " 20 %  3 min 05 s left"));
    assert_non_null(strstr(text, "━"));
    assert_non_null(strstr(text, "410.0 GFLOP/s (41 % of peak)"));
    assert_in_range(widest(text), 60, 100);
    ds_progress_note(p, "validation loss %.2f", 3.5);
    drain(master, text, sizeof text);
    const char *note = strstr(text, "validation loss 3.50\n");
    assert_non_null(note);
    assert_non_null(strstr(note, "step 1,234")); /* drawn again below the note */
    ds_progress_free(p);
    close(master);
    close(slave);
}

/* Every width is respected, also when the window changes between redraws. */
static void test_widths(void **state) {
    (void)state;
    int master = -1, slave = -1;
    static char text[1 << 16];
    open_terminal(&master, &slave, 80);
    for (unsigned short columns = 1; columns < 200; columns++) {
        const struct winsize size = {.ws_row = 24, .ws_col = columns};
        assert_int_equal(ioctl(slave, TIOCSWINSZ, &size), 0);
        ds_progress *p = ds_progress_new(slave, 10);
        ds_progress_update(p, &example);
        drain(master, text, sizeof text);
        assert_true(widest(text) <= columns);
        ds_progress_fields last = example;
        last.step = last.steps;
        ds_progress_update(p, &last); /* too soon to be drawn, but the last state is shown */
        ds_progress_free(p);
        drain(master, text, sizeof text);
        if (columns > 60) {
            assert_non_null(strstr(text, "step 6,000/6,000"));
            assert_non_null(strstr(text, "100 %  1 min 00 s"));
        }
        assert_true(widest(text) <= columns);
    }
    close(master);
    close(slave);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_lines),
        cmocka_unit_test(test_live),
        cmocka_unit_test(test_widths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
