/* Weights as whole numbers: which parameters can be kept so, and how they are made. */
#ifndef DS_MODELS_QUANTISED_H
#define DS_MODELS_QUANTISED_H

#include "passes/passes.h"
#include "deepseek/graph.h"
#include "deepseek/safetensors.h"

/* 8 bits with one scale a row, or 4 with one for each group of columns. */
typedef struct ds_weight_format {
    int bits;      /* 0: not quantised */
    int64_t group; /* 4 bits: columns that share a scale, a multiple of 8 */
} ds_weight_format;

int64_t ds_weight_groups(ds_weight_format format, int64_t n_in);
int64_t ds_weight_code_columns(ds_weight_format format, int64_t n_in); /* of bytes or words */

/* w [n_out, n_in] → codes i8 [n_out, n_in] or i32 [n_out, ⌈n_in/8⌉] (graph.h,
 * ds_graph_quantised_matmul), scale bf16 [n_out, groups]. Scales are chosen as bf16, so that codes
 * fit the scale that a file keeps: 8 bits reach the largest magnitude of the row; 4 bits the best
 * of a few lengths of the range, by the squares of what is lost. DS_NUMERIC when w is not finite.
 */
ds_status ds_quantise_weights(const float *w, int64_t n_out, int64_t n_in, ds_weight_format format,
                              void *codes, uint16_t *scale);

/* A matrix of a file as f32 [n_out, n_in]; by_columns: the file has it [n_in, n_out]. */
void ds_floats_to_rows(const ds_safetensor *t, int64_t n_out, int64_t n_in, bool by_columns,
                       float *out);

#endif
