/* Curves as pictures: in a terminal, out of Braille characters, and as an SVG file that can be read
 * on light and on dark pages.
 *
 *     const ds_series series[] = {{.name = "training", .x = steps, .y = loss, .n = n},
 *                                 {.name = "validation", .x = …, .markers = true}};
 *     char *picture = ds_plot_terminal(&(ds_plot){.title = "loss", .x_label = "step",
 *                                                 .series = series, .n_series = 2}, 80, 20, true);
 */
#ifndef DS_OBSERVE_PLOT_H
#define DS_OBSERVE_PLOT_H

#include <stdbool.h>
#include <stddef.h>
#include "deepseek/status.h"

typedef struct ds_series {
    const char *name;
    const double *x, *y; /* [n], x ascending; points that are not finite are gaps */
    size_t n;
    bool markers;     /* few points that matter one by one: drawn as dots too */
    double smoothing; /* SVG: also a moving average that forgets by this factor a point, [0, 1) */
} ds_series;

typedef struct ds_plot {
    const char *title, *x_label, *y_label; /* may be NULL */
    const ds_series *series;
    size_t n_series; /* up to 6 */
} ds_plot;

/* The picture as lines of text, columns wide and rows high with axes and legend (at least 24 by 6);
 * color: with ANSI colours. The caller's to free(); NULL when out of memory. */
char *ds_plot_terminal(const ds_plot *plot, int columns, int rows, bool color);

/* The picture as SVG, 840 by 420. The caller's to free(); NULL when out of memory. */
char *ds_plot_svg(const ds_plot *plot);

#endif
