/* The passes: functions from graph to graph, one file each. Each returns a new graph (a poisoned
 * one if the model cannot be treated so) or NULL when out of memory; the old one stays as it is. */
#ifndef DS_PASSES_PASSES_H
#define DS_PASSES_PASSES_H

#include "backend/backend.h"
#include "deepseek/compile.h"
#include "graph/node.h"

/* Matrix products, attention and activations in bf16 or fp16; parameters stay f32 masters that are
 * cast where they are used; norms, softmax and losses compute in f32. */
ds_graph *ds_pass_precision(const ds_graph *g, ds_precision precision);

/* The type that the parameter of this name is kept in. */
typedef ds_dtype ds_stored_dtype(const char *param, const void *context);
/* Parameters in the types that a trained model's state keeps them in, read as they are by the ops
 * that can. After precision, before everything that plans. */
ds_graph *ds_pass_stored(const ds_graph *g, ds_stored_dtype *dtype_of, const void *context);

/* Attention as products, mask and softmax over a score matrix in memory: for comparison with the
 * fused op. Before autodiff. */
ds_graph *ds_pass_unfuse_attention(const ds_graph *g);

/* Appends the backward pass of the output `loss` (f32, rank 0): for every parameter that it depends
 * on, the gradient is written over (or added to) the variable "grad/NAME". */
ds_graph *ds_pass_autodiff(const ds_graph *g, const char *loss, bool accumulate);

/* Joins ops into the fused forms that kernels offer: matmul epilogues, casts into f32 results,
 * linear + cross-entropy without whole logits. */
ds_graph *ds_pass_fuse(const ds_graph *g);

/* Joins groups of element-wise ops whose intermediate values are read inside the group only. */
ds_graph *ds_pass_fuse_elementwise(const ds_graph *g);

/* Drops what a segment computed after the forward pass and computes it again in the backward pass:
 * everything (full), or all but the results of heavy ops (selective). Chen et al. 2016. */
ds_graph *ds_pass_recompute(const ds_graph *g, ds_recompute recompute);

/* Moves activations that wait for the backward pass to the host arena in between. */
ds_graph *ds_pass_offload(const ds_graph *g);

#endif
