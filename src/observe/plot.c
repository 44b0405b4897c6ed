#include "observe/plot.h"

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "observe/plot_axis.h"

/* ---- axes -------------------------------------------------------------------------------- */

bool ds_plot_point_is_finite(const ds_series *series, size_t i) {
    /* Beyond this no picture has room, and differences could overflow. */
    return fabs(series->x[i]) < 1e15 && fabs(series->y[i]) < 1e15;
}

/* 1, 2 or 5 times a power of ten. */
static void choose_ticks(ds_plot_axis *axis, int n_ticks) {
    const double size = fmax(fabs(axis->min), fabs(axis->max));
    if (!(axis->max - axis->min > 1e-9 * size)) { /* one value, or as good as one */
        const double room = size == 0 ? 1 : size * 0.1;
        axis->min -= room;
        axis->max += room;
    }
    const double raw = (axis->max - axis->min) / n_ticks;
    const double power = pow(10, floor(log10(raw)));
    const double factor = raw / power;
    axis->tick = power * (factor <= 1 ? 1 : factor <= 2 ? 2 : factor <= 5 ? 5 : 10);
    const double decimals = -floor(log10(axis->tick) + 1e-9);
    axis->decimals = decimals > 0 ? (decimals < 12 ? (int)decimals : 12) : 0;
}

static void widen(ds_plot_axis *axis, double value) {
    axis->min = value < axis->min ? value : axis->min;
    axis->max = value > axis->max ? value : axis->max;
}

void ds_plot_axes(const ds_plot *plot, int x_ticks, int y_ticks, ds_plot_axis *x, ds_plot_axis *y) {
    *x = *y = (ds_plot_axis){.min = INFINITY, .max = -INFINITY};
    for (size_t s = 0; s < plot->n_series; s++) {
        for (size_t i = 0; i < plot->series[s].n; i++) {
            if (ds_plot_point_is_finite(&plot->series[s], i)) {
                widen(x, plot->series[s].x[i]);
                widen(y, plot->series[s].y[i]);
            }
        }
    }
    if (x->min > x->max) {
        x->min = y->min = 0;
        x->max = y->max = 1;
    }
    choose_ticks(x, x_ticks);
    choose_ticks(y, y_ticks);
    /* Round numbers at both ends of the y axis, so that a curve never lies on the frame. */
    y->min = floor(y->min / y->tick + 1e-9) * y->tick;
    y->max = ceil(y->max / y->tick - 1e-9) * y->tick;
}

double ds_plot_first_tick(const ds_plot_axis *axis) {
    return ceil(axis->min / axis->tick - 1e-9) * axis->tick;
}

bool ds_plot_inside(const ds_plot_axis *axis, double value) {
    return value <= axis->max + axis->tick * 1e-6;
}

double ds_plot_position(const ds_plot_axis *axis, double value) {
    return (value - axis->min) / (axis->max - axis->min);
}

void ds_plot_number(ds_text *out, double value, int decimals) {
    int64_t scale = 1;
    for (int i = 0; i < decimals; i++)
        scale *= 10;
    const double scaled = fabs(value) * (double)scale;
    if (!(scaled < 9e18)) {
        ds_text_printf(out, "%.0f", value);
        return;
    }
    const int64_t whole = llround(scaled);
    ds_text_printf(out, "%s%" PRId64, value < 0 && whole ? "-" : "", whole / scale);
    if (decimals > 0)
        ds_text_printf(out, ".%0*" PRId64, decimals, whole % scale);
}

void ds_plot_tick_label(const ds_plot_axis *axis, double value, char *out, size_t size) {
    static const struct {
        double factor;
        const char *suffix;
    } units[] = {{1e9, "B"}, {1e6, "M"}, {1e3, "k"}};
    ds_text text = {0};
    int decimals = axis->decimals;
    const char *suffix = "";
    for (size_t i = 0; i < sizeof units / sizeof *units && !*suffix; i++) {
        if (axis->max >= 10 * units[i].factor && axis->tick * 10 >= units[i].factor) {
            decimals = axis->tick < units[i].factor ? 1 : 0;
            value /= units[i].factor;
            suffix = value != 0 ? units[i].suffix : " ";
        }
    }
    if (*suffix == ' ')
        decimals = 0;
    ds_plot_number(&text, value, decimals);
    snprintf(out, size, "%s%s", text.data ? text.data : "", *suffix == ' ' ? "" : suffix);
    ds_text_clear(&text);
}

/* ---- terminal ---------------------------------------------------------------------------- */

/* Each character is 2 by 4 dots: U+2800 plus a bit per dot. */
typedef struct canvas {
    int columns, rows;
    unsigned char *dots;    /* [rows, columns] bits of the Braille pattern */
    unsigned char *owner;   /* [rows, columns] series that drew last, plus 1 */
    unsigned char *markers; /* [rows, columns] series whose point stands here, plus 1 */
} canvas;

static const int ansi_colors[] = {36, 33, 35, 32, 34, 31};
static const char *const marker_shapes[] = {"●", "◆", "▲", "■", "○", "◇"};
enum { MAX_SERIES = 6 };

static void set_dot(canvas *c, int x, int y, size_t series) {
    static const unsigned char bits[4][2] = {
        {0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    if (x < 0 || y < 0 || x >= 2 * c->columns || y >= 4 * c->rows)
        return;
    const int cell = y / 4 * c->columns + x / 2;
    c->dots[cell] |= bits[y % 4][x % 2];
    c->owner[cell] = (unsigned char)(series + 1);
}

/* Bresenham's line. */
static void draw_line(canvas *c, int x0, int y0, int x1, int y1, size_t series) {
    const int dx = abs(x1 - x0), dy = -abs(y1 - y0);
    const int sx = x0 < x1 ? 1 : -1, sy = y0 < y1 ? 1 : -1;
    int error = dx + dy;
    for (;;) {
        set_dot(c, x0, y0, series);
        if (x0 == x1 && y0 == y1)
            return;
        const int twice = 2 * error;
        if (twice >= dy) {
            error += dy;
            x0 += sx;
        }
        if (twice <= dx) {
            error += dx;
            y0 += sy;
        }
    }
}

static void draw_series(canvas *c, const ds_plot *plot, size_t s, const ds_plot_axis *x_axis,
                        const ds_plot_axis *y_axis) {
    const ds_series *series = &plot->series[s];
    bool joined = false;
    int x0 = 0, y0 = 0;
    for (size_t i = 0; i < series->n; i++) {
        if (!ds_plot_point_is_finite(series, i)) {
            joined = false;
            continue;
        }
        const int x = (int)lround(ds_plot_position(x_axis, series->x[i]) * (2 * c->columns - 1));
        const int y = (int)lround((1 - ds_plot_position(y_axis, series->y[i])) * (4 * c->rows - 1));
        if (joined)
            draw_line(c, x0, y0, x, y, s);
        else
            set_dot(c, x, y, s);
        if (series->markers)
            c->markers[y / 4 * c->columns + x / 2] = (unsigned char)(s + 1);
        joined = true;
        x0 = x;
        y0 = y;
    }
}

static void color_on(ds_text *out, bool color, size_t series) {
    if (color)
        ds_text_printf(out, "\x1b[%dm", ansi_colors[series % MAX_SERIES]);
}

static void color_off(ds_text *out, bool color) {
    ds_text_puts(out, color ? "\x1b[0m" : "");
}

static void append_cell(ds_text *out, const canvas *c, int cell, bool color) {
    const size_t owner = c->markers[cell] ? c->markers[cell] : c->owner[cell];
    if (owner == 0) {
        ds_text_puts(out, " ");
        return;
    }
    color_on(out, color, owner - 1);
    if (c->markers[cell]) {
        ds_text_puts(out, marker_shapes[(owner - 1) % MAX_SERIES]);
    } else {
        const unsigned bits = c->dots[cell];
        const char braille[] = {(char)0xe2, (char)(0xa0 | bits >> 6), (char)(0x80 | (bits & 0x3f)),
                                0};
        ds_text_puts(out, braille);
    }
    color_off(out, color);
}

/* Title and legend in one line. */
static void append_legend(ds_text *out, const ds_plot *plot, bool color) {
    if (plot->title)
        ds_text_printf(out, "  %s   ", plot->title);
    for (size_t s = 0; s < plot->n_series && s < MAX_SERIES; s++) {
        const ds_series *series = &plot->series[s];
        ds_text_puts(out, "  ");
        color_on(out, color, s);
        ds_text_puts(out, series->markers ? marker_shapes[s] : "⣀⡠⠔⠒");
        color_off(out, color);
        ds_text_printf(out, " %s", series->name ? series->name : "");
        for (size_t i = series->n; i-- > 0;) {
            if (ds_plot_point_is_finite(series, i)) {
                ds_text_puts(out, " ");
                ds_plot_number(out, series->y[i], 3);
                break;
            }
        }
    }
    ds_text_puts(out, "\n");
}

/* The round number whose place is this row, or "". */
static void row_label(const ds_plot_axis *axis, int row, int rows, char *out, size_t size) {
    out[0] = '\0';
    for (double tick = ds_plot_first_tick(axis); ds_plot_inside(axis, tick); tick += axis->tick)
        if ((int)lround((1 - ds_plot_position(axis, tick)) * (rows - 1)) == row)
            ds_plot_tick_label(axis, tick, out, size);
}

static void append_x_axis(ds_text *out, const ds_plot *plot, const ds_plot_axis *axis, int margin,
                          int columns) {
    char line[512];
    memset(line, ' ', sizeof line);
    const int width = margin + 2 + columns < 511 ? margin + 2 + columns : 511;
    ds_text_printf(out, "%*s └", margin, "");
    int next_free = 0;
    for (int i = 0; i < columns; i++) {
        bool tick_here = false;
        for (double tick = ds_plot_first_tick(axis); ds_plot_inside(axis, tick);
             tick += axis->tick) {
            char label[32];
            if ((int)lround(ds_plot_position(axis, tick) * (columns - 1)) != i)
                continue;
            tick_here = true;
            ds_plot_tick_label(axis, tick, label, sizeof label);
            const int length = (int)strlen(label);
            int at = margin + 2 + i - length / 2;
            at = at + length > width ? width - length : at;
            if (at >= next_free) {
                memcpy(line + at, label, (size_t)length);
                next_free = at + length + 1;
            }
        }
        ds_text_puts(out, tick_here ? "┴" : "─");
    }
    int end = width;
    while (end > 0 && line[end - 1] == ' ')
        end--;
    ds_text_printf(out, "\n%.*s", end, line);
    if (plot->x_label && end + 2 + (int)strlen(plot->x_label) <= width)
        ds_text_printf(out, "  %s", plot->x_label);
    else if (plot->x_label)
        ds_text_printf(out, "\n%*s%s", margin + 2 + (columns - (int)strlen(plot->x_label)) / 2, "",
                       plot->x_label);
    ds_text_puts(out, "\n");
}

char *ds_plot_terminal(const ds_plot *plot, int columns, int rows, bool color) {
    enum { MARGIN = 7, ROWS_AROUND = 3 };
    columns = columns < 24 ? 24 : columns > 400 ? 400 : columns;
    rows = rows < 6 ? 6 : rows > 200 ? 200 : rows;
    canvas c = {.columns = columns - MARGIN - 2, .rows = rows - ROWS_AROUND};
    const size_t cells = (size_t)c.columns * (size_t)c.rows;
    c.dots = ds_calloc(3, cells);
    if (!c.dots)
        return NULL;
    c.owner = c.dots + cells;
    c.markers = c.owner + cells;
    ds_plot_axis x_axis, y_axis;
    ds_plot_axes(plot, c.columns / 12 + 1, c.rows / 3 + 1, &x_axis, &y_axis);
    for (size_t s = 0; s < plot->n_series && s < MAX_SERIES; s++)
        draw_series(&c, plot, s, &x_axis, &y_axis);
    ds_text out = {0};
    append_legend(&out, plot, color);
    for (int row = 0; row < c.rows; row++) {
        char label[32];
        row_label(&y_axis, row, c.rows, label, sizeof label);
        ds_text_printf(&out, "%*.*s %s", MARGIN, MARGIN, label, *label ? "┤" : "│");
        for (int column = 0; column < c.columns; column++)
            append_cell(&out, &c, row * c.columns + column, color);
        ds_text_puts(&out, "\n");
    }
    append_x_axis(&out, plot, &x_axis, MARGIN, c.columns);
    free(c.dots);
    return ds_text_take(&out);
}
