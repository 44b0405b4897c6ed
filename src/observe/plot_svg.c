/* Curves as SVG. Colours are plain CSS with a second set for dark pages, and no CSS variables,
 * which viewers outside browsers do not know; text is text, so that it can be searched and scales.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "observe/plot_axis.h"

enum { WIDTH = 840, HEIGHT = 420, LEFT = 64, RIGHT = 24, TOP = 44, BOTTOM = 52, MAX_SERIES = 6 };

/* Classes sN and fN stroke and fill series N. */
static const char style[] =
    "<style>\n"
    "  svg { font: 13px system-ui, 'DejaVu Sans', sans-serif; }\n"
    "  .curve { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }\n"
    "  .raw { stroke-width: 1; opacity: 0.35; }\n"
    "  .page { fill: #ffffff; } text { fill: #24292f; } .faint { fill: #6b7480; }\n"
    "  .grid { stroke: #e3e7ec; } .axis { stroke: #6b7480; }\n"
    "  .s0 { stroke: #1f6feb; } .f0 { fill: #1f6feb; } .s1 { stroke: #d1570b; } .f1 { fill: "
    "#d1570b; }\n"
    "  .s2 { stroke: #8250df; } .f2 { fill: #8250df; } .s3 { stroke: #1a7f37; } .f3 { fill: "
    "#1a7f37; }\n"
    "  .s4 { stroke: #0b7285; } .f4 { fill: #0b7285; } .s5 { stroke: #c11e5b; } .f5 { fill: "
    "#c11e5b; }\n"
    "  @media (prefers-color-scheme: dark) {\n"
    "    .page { fill: #0d1117; } text { fill: #e6edf3; } .faint { fill: #9aa5b1; }\n"
    "    .grid { stroke: #2b323b; } .axis { stroke: #9aa5b1; }\n"
    "    .s0 { stroke: #6cb0ff; } .f0 { fill: #6cb0ff; } .s1 { stroke: #ffa45c; } .f1 { fill: "
    "#ffa45c; }\n"
    "    .s2 { stroke: #c4a1ff; } .f2 { fill: #c4a1ff; } .s3 { stroke: #57d175; } .f3 { fill: "
    "#57d175; }\n"
    "    .s4 { stroke: #4fd1de; } .f4 { fill: #4fd1de; } .s5 { stroke: #ff8fb4; } .f5 { fill: "
    "#ff8fb4; }\n"
    "  }\n"
    "</style>\n";

static void append_escaped(ds_text *out, const char *text) {
    for (const char *s = text; *s; s++) {
        if (*s == '<')
            ds_text_puts(out, "&lt;");
        else if (*s == '&')
            ds_text_puts(out, "&amp;");
        else if (*s == '"')
            ds_text_puts(out, "&quot;");
        else if ((unsigned char)*s >= 0x20)
            ds_text_append(out, s, 1);
    }
}

static double x_of(const ds_plot_axis *axis, double value) {
    return LEFT + ds_plot_position(axis, value) * (WIDTH - LEFT - RIGHT);
}

static double y_of(const ds_plot_axis *axis, double value) {
    return HEIGHT - BOTTOM - ds_plot_position(axis, value) * (HEIGHT - TOP - BOTTOM);
}

static void append_xy(ds_text *out, double x, double y) {
    ds_plot_number(out, x, 1);
    ds_text_puts(out, " ");
    ds_plot_number(out, y, 1);
}

static void append_grid(ds_text *out, const ds_plot_axis *x, const ds_plot_axis *y) {
    char label[32];
    for (double tick = ds_plot_first_tick(y); ds_plot_inside(y, tick); tick += y->tick) {
        ds_plot_tick_label(y, tick, label, sizeof label);
        ds_text_printf(out, "<path class=\"grid\" d=\"M%d ", LEFT);
        ds_plot_number(out, y_of(y, tick), 1);
        ds_text_printf(out, "H%d\"/><text class=\"faint\" text-anchor=\"end\" x=\"%d\" y=\"",
                       WIDTH - RIGHT, LEFT - 8);
        ds_plot_number(out, y_of(y, tick) + 4, 1);
        ds_text_printf(out, "\">%s</text>\n", label);
    }
    for (double tick = ds_plot_first_tick(x); ds_plot_inside(x, tick); tick += x->tick) {
        ds_plot_tick_label(x, tick, label, sizeof label);
        ds_text_puts(out, "<path class=\"axis\" d=\"M");
        append_xy(out, x_of(x, tick), HEIGHT - BOTTOM);
        ds_text_puts(out, "v5\"/><text class=\"faint\" text-anchor=\"middle\" x=\"");
        ds_plot_number(out, x_of(x, tick), 1);
        ds_text_printf(out, "\" y=\"%d\">%s</text>\n", HEIGHT - BOTTOM + 20, label);
    }
    ds_text_printf(out, "<path class=\"axis\" d=\"M%d %dH%d\"/>\n", LEFT, HEIGHT - BOTTOM,
                   WIDTH - RIGHT);
}

/* Smallest and largest y of the points that share a tenth-pixel-wide column would be lost in a
 * plain thinning; a path through first, least, greatest and last of each pixel looks the same as
 * one through all of them and stays small. */
typedef struct column {
    double x, first, least, greatest, last;
    bool any;
} column;

static void flush_column(ds_text *out, column *c, bool *pen_down) {
    if (!c->any)
        return;
    const double ys[] = {c->first, c->least, c->greatest, c->last};
    double before = NAN;
    for (int i = 0; i < 4; i++) {
        if (ys[i] == before || (i == 3 && c->least == c->greatest))
            continue;
        ds_text_puts(out, *pen_down ? "L" : "M");
        append_xy(out, c->x, ys[i]);
        *pen_down = true;
        before = ys[i];
    }
    c->any = false;
}

/* An exponential moving average that runs forwards, then backwards, so that the curve does not lag
 * behind its points. Bias-corrected as in Adam: the start is not pulled to 0. */
static void average(const ds_series *series, double smoothing, double *out) {
    const size_t n = series->n;
    double mean = 0, weight = 0;
    for (size_t i = 0; i < n; i++) {
        out[i] = series->y[i];
        if (!ds_plot_point_is_finite(series, i))
            continue;
        mean = smoothing * mean + (1 - smoothing) * series->y[i];
        weight = smoothing * weight + (1 - smoothing);
        out[i] = mean / weight;
    }
    mean = weight = 0;
    for (size_t i = n; i-- > 0;) {
        if (!ds_plot_point_is_finite(series, i))
            continue;
        mean = smoothing * mean + (1 - smoothing) * out[i];
        weight = smoothing * weight + (1 - smoothing);
        out[i] = mean / weight;
    }
}

/* The series as a path's data. */
static void append_curve(ds_text *out, const ds_series *series, const ds_plot_axis *x_axis,
                         const ds_plot_axis *y_axis) {
    column c = {0};
    bool pen_down = false;
    for (size_t i = 0; i < series->n; i++) {
        if (!ds_plot_point_is_finite(series, i)) {
            flush_column(out, &c, &pen_down);
            pen_down = false;
            continue;
        }
        const double x = x_of(x_axis, series->x[i]), y = y_of(y_axis, series->y[i]);
        if (c.any && fabs(x - c.x) >= 0.5)
            flush_column(out, &c, &pen_down);
        if (!c.any)
            c = (column){.x = x, .first = y, .least = y, .greatest = y, .any = true};
        c.least = y < c.least ? y : c.least;
        c.greatest = y > c.greatest ? y : c.greatest;
        c.last = y;
    }
    flush_column(out, &c, &pen_down);
}

static void append_path(ds_text *out, const ds_series *series, size_t s, const ds_plot_axis *x,
                        const ds_plot_axis *y, const char *class) {
    ds_text_printf(out, "<path class=\"curve s%zu%s\" d=\"", s, class);
    append_curve(out, series, x, y);
    ds_text_puts(out, "\"/>\n");
}

static void append_series(ds_text *out, const ds_series *series, size_t s, const ds_plot_axis *x,
                          const ds_plot_axis *y) {
    const bool smooth = series->n > 0 && series->smoothing > 0 && series->smoothing < 1;
    append_path(out, series, s, x, y, smooth ? " raw" : "");
    if (smooth) {
        double *means = ds_malloc(series->n * sizeof *means);
        if (!means) {
            out->poisoned = true;
            return;
        }
        average(series, series->smoothing, means);
        append_path(out, &(ds_series){.x = series->x, .y = means, .n = series->n}, s, x, y, "");
        free(means);
    }
    for (size_t i = 0; series->markers && i < series->n; i++) {
        if (!ds_plot_point_is_finite(series, i))
            continue;
        ds_text_puts(out, "<circle r=\"3.5\" cx=\"");
        ds_plot_number(out, x_of(x, series->x[i]), 1);
        ds_text_puts(out, "\" cy=\"");
        ds_plot_number(out, y_of(y, series->y[i]), 1);
        ds_text_printf(out, "\" class=\"f%zu\"/>\n", s);
    }
}

static void append_labels(ds_text *out, const ds_plot *plot) {
    if (plot->title) {
        ds_text_printf(out, "<text x=\"%d\" y=\"26\" font-size=\"16\" font-weight=\"600\">", LEFT);
        append_escaped(out, plot->title);
        ds_text_puts(out, "</text>\n");
    }
    if (plot->x_label) {
        ds_text_printf(out, "<text class=\"faint\" text-anchor=\"middle\" x=\"%d\" y=\"%d\">",
                       (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10);
        append_escaped(out, plot->x_label);
        ds_text_puts(out, "</text>\n");
    }
    if (plot->y_label) {
        ds_text_printf(out,
                       "<text class=\"faint\" text-anchor=\"middle\" "
                       "transform=\"translate(16 %d) rotate(-90)\">",
                       (TOP + HEIGHT - BOTTOM) / 2);
        append_escaped(out, plot->y_label);
        ds_text_puts(out, "</text>\n");
    }
}

/* Name and last value of each series, in the upper right corner where a falling curve is not. */
static void append_legend(ds_text *out, const ds_plot *plot) {
    for (size_t s = 0; s < plot->n_series && s < MAX_SERIES; s++) {
        const ds_series *series = &plot->series[s];
        const int y = TOP + 20 + 20 * (int)s;
        ds_text_printf(out,
                       "<path class=\"curve s%zu\" d=\"M%d %dh22\"/><text "
                       "text-anchor=\"end\" x=\"%d\" y=\"%d\">",
                       s, WIDTH - RIGHT - 34, y - 4, WIDTH - RIGHT - 42, y);
        append_escaped(out, series->name ? series->name : "");
        for (size_t i = series->n; i-- > 0;) {
            if (ds_plot_point_is_finite(series, i)) {
                ds_text_puts(out, " ");
                ds_plot_number(out, series->y[i], 3);
                break;
            }
        }
        ds_text_puts(out, "</text>\n");
    }
}

char *ds_plot_svg(const ds_plot *plot) {
    ds_plot_axis x, y;
    ds_plot_axes(plot, 8, 6, &x, &y);
    ds_text out = {0};
    ds_text_printf(&out,
                   "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
                   "height=\"%d\" role=\"img\" aria-label=\"",
                   WIDTH, HEIGHT, WIDTH, HEIGHT);
    append_escaped(&out, plot->title ? plot->title : "plot");
    ds_text_printf(&out, "\">\n%s<rect class=\"page\" width=\"%d\" height=\"%d\" rx=\"8\"/>\n",
                   style, WIDTH, HEIGHT);
    append_grid(&out, &x, &y);
    for (size_t s = 0; s < plot->n_series && s < MAX_SERIES; s++)
        append_series(&out, &plot->series[s], s, &x, &y);
    append_labels(&out, plot);
    append_legend(&out, plot);
    ds_text_puts(&out, "</svg>\n");
    return ds_text_take(&out);
}
