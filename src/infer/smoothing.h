/* What is done to the columns of products before weights are quantised. */
#ifndef DS_INFER_SMOOTHING_H
#define DS_INFER_SMOOTHING_H

#include "infer/calibrate.h"

/* For one product, in the order of the calibration's. */
typedef struct ds_smoothed {
    float *factor;     /* [n_in] x is divided by it, W multiplied; NULL: nothing is */
    bool by_norm;      /* the norm before divides */
    int32_t *outliers; /* [n_outliers], rising */
    int64_t n_outliers;
} ds_smoothed;

/* The largest magnitude in each column of the product's weights, [n_in]. */
typedef ds_status ds_weight_ranges(const ds_calibrated *product, float *most, void *context);

/* One for each product of the calibration, the caller's to free by ds_smoothing_free. */
ds_status ds_smoothing_choose(const ds_calibration *calibration, const ds_quantise_opts *opts,
                              ds_weight_ranges *ranges, void *context, ds_smoothed **out);
void ds_smoothing_free(ds_smoothed *smoothed, size_t n);

#endif
