/* What a model's products are given to multiply, seen on a text. */
#ifndef DS_INFER_CALIBRATE_H
#define DS_INFER_CALIBRATE_H

#include "deepseek/inference.h"
#include "graph/node.h"
#include "models/quantised.h"

/* One product with a parameter that can be quantised. */
typedef struct ds_calibrated {
    const ds_node *param;
    const ds_node *input; /* products of one input have the same */
    const ds_node *norm;  /* the norm that the input is the result of, if nothing else reads it nor
                             its weight; NULL: there is none */
    ds_product_side side;
    int64_t n_out, n_in;
    float *most; /* [n_in]: the largest magnitude in each column of the input */
} ds_calibrated;

typedef struct ds_calibration {
    ds_graph *graph; /* the model's, which params and norms are nodes of */
    ds_calibrated *products;
    size_t n;
} ds_calibration;

/* The products of a model; nothing seen yet, all magnitudes are 0. */
ds_status ds_calibration_new(const ds_model_config *config, ds_calibration **out);
void ds_calibration_free(ds_calibration *calibration);
/* Lets the model read the tokens, in windows of 256 or less. DS_INVALID when there are fewer. */
ds_status ds_calibration_read(ds_calibration *calibration, ds_model *model, const int32_t *tokens,
                              int64_t n);
/* The product with the parameter of this name, or NULL. */
const ds_calibrated *ds_calibration_find(const ds_calibration *calibration, const char *param);

#endif
