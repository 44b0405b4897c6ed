/* The range of an axis and its round numbers. Shared by the two kinds of picture. */
#ifndef DS_OBSERVE_PLOT_AXIS_H
#define DS_OBSERVE_PLOT_AXIS_H

#include "base/text.h"
#include "observe/plot.h"

typedef struct ds_plot_axis {
    double min, max;
    double tick; /* distance of the round numbers */
    int decimals;
} ds_plot_axis;

/* Ranges that hold every finite point, with about so many round numbers on each axis. */
void ds_plot_axes(const ds_plot *plot, int x_ticks, int y_ticks, ds_plot_axis *x, ds_plot_axis *y);

/* First round number of the axis; add tick while ds_plot_inside. */
double ds_plot_first_tick(const ds_plot_axis *axis);
bool ds_plot_inside(const ds_plot_axis *axis, double value);

/* 0 at the axis's min, 1 at its max. */
double ds_plot_position(const ds_plot_axis *axis, double value);

bool ds_plot_point_is_finite(const ds_series *series, size_t i);

/* Appends value with so many decimals, with a point in every locale. */
void ds_plot_number(ds_text *out, double value, int decimals);
/* As an axis writes it: 2000 is "2k" on a wide axis. */
void ds_plot_tick_label(const ds_plot_axis *axis, double value, char *out, size_t size);

#endif
