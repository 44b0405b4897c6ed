#ifndef DS_PASSES_LINEAR_CROSS_ENTROPY_H
#define DS_PASSES_LINEAR_CROSS_ENTROPY_H

#include "graph/node.h"

/* The part of the fuse pass that replaces a projection to the vocabulary, its cross-entropy and
 * both of their gradients by one op, whose logits exist a block of rows at a time. */
ds_graph *ds_fuse_linear_cross_entropy(const ds_graph *g);

#endif
