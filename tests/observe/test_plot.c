/* Pictures of curves: exact for small ones, well-formed and of the right size for odd ones. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/fault.h"
#include "observe/plot.h"

static void test_terminal_exact(void **state) {
    (void)state;
    const double x[] = {0, 10, 20}, y[] = {4, 1, 0};
    const double vx[] = {10, 20}, vy[] = {2, 1};
    const ds_series series[] = {{.name = "train", .x = x, .y = y, .n = 3},
                                {.name = "val", .x = vx, .y = vy, .n = 2, .markers = true}};
    char *picture = ds_plot_terminal(
        &(ds_plot){.title = "loss", .x_label = "step", .series = series, .n_series = 2}, 40, 8,
        false);
    assert_non_null(picture);
    const char *expected = "  loss     ⣀⡠⠔⠒ train 0.000  ◆ val 1.000\n"
                           "      4 ┤⠉⠒⠤⣀                           \n"
                           "        │    ⠉⠒⠢⢄⡀                      \n"
                           "      2 ┤        ⠈⠑⠒⠤⣀  ◆⠤⢄⣀⣀⣀⡀         \n"
                           "        │             ⠉⠒⠤⠤⣀⣀⣀ ⠈⠉⠉⠉⠒⠒⠒⠒⠤◆\n"
                           "      0 ┤                    ⠉⠉⠉⠒⠒⠒⠤⠤⠤⣀⣀\n"
                           "        └┴──────────────┴──────────────┴\n"
                           "         0             10             20\n"
                           "                      step\n";
    if (strcmp(picture, expected) != 0)
        fail_msg("got\n%s", picture);
    free(picture);
}

/* No line wider than asked, as many lines as asked. */
static void check_size(const ds_plot *plot, int columns, int rows) {
    char *picture = ds_plot_terminal(plot, columns, rows, false);
    assert_non_null(picture);
    int lines = 0;
    for (char *line = picture, *end; (end = strchr(line, '\n')); line = end + 1, lines++) {
        int width = 0;
        for (char *s = line; s < end; s++)
            width += ((unsigned char)*s & 0xc0) != 0x80;
        if (lines > 0 && width > columns)
            fail_msg("%d wide, %d asked\n%s", width, columns, picture);
    }
    assert_in_range(lines, rows, rows + 1);
    free(picture);
}

static void test_odd_data(void **state) {
    (void)state;
    enum { N = 3000 };
    static double x[N], y[N];
    for (int i = 0; i < N; i++) {
        x[i] = i;
        y[i] = i % 97 == 0 ? NAN : 9 * exp(-i / 500.0) + 2 + 0.3 * sin(i * 1.7);
    }
    const double one[] = {5}, huge[] = {1e300}, close_by[] = {1e14, 1e14 + 0.02};
    const double wide[] = {-1e14, 1e14}, tiny[] = {0, 1e-300}, two[] = {0, 1};
    const ds_series cases[] = {
        {.name = "none"},
        {.name = "one", .x = one, .y = one, .n = 1, .markers = true},
        {.name = "huge", .x = huge, .y = huge, .n = 1},
        {.name = "near", .x = two, .y = close_by, .n = 2},
        {.name = "near x", .x = close_by, .y = two, .n = 2},
        {.name = "wide", .x = wide, .y = wide, .n = 2},
        {.name = "tiny", .x = two, .y = tiny, .n = 2},
        {.name = "<&\">", .x = x, .y = y, .n = N, .smoothing = 0.9},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const ds_plot plot = {.title = "t", .x_label = "step", .series = &cases[i], .n_series = 1};
        check_size(&plot, 80, 20);
        check_size(&plot, 24, 6);
        char *svg = ds_plot_svg(&plot);
        assert_non_null(svg);
        assert_non_null(strstr(svg, "</svg>\n"));
        assert_null(strstr(svg, "nan"));
        assert_null(strstr(svg, "inf"));
        assert_true(strlen(svg) < 200000);
        free(svg);
    }
    check_size(&(ds_plot){0}, 80, 20);
}

static void test_svg(void **state) {
    (void)state;
    const double x[] = {0, 10, 20}, y[] = {4, 1, 0};
    const ds_series series[] = {{.name = "a<b & \"c\"", .x = x, .y = y, .n = 3, .markers = true}};
    char *svg = ds_plot_svg(&(ds_plot){.title = "loss",
                                       .x_label = "step",
                                       .y_label = "nats per token",
                                       .series = series,
                                       .n_series = 1});
    assert_non_null(strstr(svg, "a&lt;b &amp; &quot;c&quot;"));
    assert_non_null(strstr(svg, "d=\"M64.0 44.0L440.0 287.0L816.0 368.0\""));
    assert_non_null(strstr(svg, "prefers-color-scheme: dark"));
    free(svg);
}

/* Writes a picture like a real run's for a person to look at, when asked to. */
static void test_example(void **state) {
    (void)state;
    const char *path = getenv("DS_PLOT_EXAMPLE");
    enum { N = 600, M = 6 };
    static double x[N], y[N], vx[M], vy[M];
    if (!path)
        skip();
    srand(1);
    for (int i = 0; i < N; i++) {
        x[i] = i + 1;
        y[i] = 2.6 + 6.4 * exp(-i / 60.0) + 0.25 * (rand() / (double)RAND_MAX - 0.5);
    }
    for (int i = 0; i < M; i++) {
        vx[i] = 100 * (i + 1);
        vy[i] = 2.7 + 6.4 * exp(-vx[i] / 60.0);
    }
    const ds_series series[] = {{.name = "training", .x = x, .y = y, .n = N, .smoothing = 0.95},
                                {.name = "validation", .x = vx, .y = vy, .n = M, .markers = true}};
    const ds_plot plot = {.title = "loss",
                          .x_label = "step",
                          .y_label = "nats per token",
                          .series = series,
                          .n_series = 2};
    char *svg = ds_plot_svg(&plot), *picture = ds_plot_terminal(&plot, 100, 24, true);
    assert_int_equal(ds_file_replace(path, svg, strlen(svg)), DS_OK);
    print_message("%s", picture);
    free(svg);
    free(picture);
}

static void test_out_of_memory(void **state) {
    (void)state;
    const double x[] = {0, 1};
    const ds_series series = {.name = "s", .x = x, .y = x, .n = 2, .smoothing = 0.5};
    const ds_plot plot = {.title = "t", .series = &series, .n_series = 1};
    for (int kind = 0; kind < 2; kind++) {
        char *made = NULL;
        for (int n = 1; n < 1000 && !made; n++) {
            ds_fault_arm(DS_FAULT_ALLOC, n);
            made = kind ? ds_plot_svg(&plot) : ds_plot_terminal(&plot, 40, 8, false);
            ds_fault_arm(DS_FAULT_ALLOC, 0);
        }
        assert_non_null(made);
        free(made);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_terminal_exact),
        cmocka_unit_test(test_odd_data),
        cmocka_unit_test(test_svg),
        cmocka_unit_test(test_example),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
