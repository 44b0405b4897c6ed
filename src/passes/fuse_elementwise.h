/* What the two halves of the fuse_elementwise pass share. */
#ifndef DS_PASSES_FUSE_ELEMENTWISE_H
#define DS_PASSES_FUSE_ELEMENTWISE_H

#include "graph/node.h"

/* An element-wise op with a float result that may be part of a group. */
bool ds_can_join_group(const ds_node *x);
bool ds_has_shape_of(const ds_node *a, const ds_node *b); /* whatever the dtypes */

/* repeat_cheap.c: the first half. NULL when out of memory. */
ds_graph *ds_repeat_cheap(const ds_graph *g);

#endif
