/* Name → node, for the leaves of one graph: open addressing over the arena's strings. */
#ifndef DS_GRAPH_LEAF_INDEX_H
#define DS_GRAPH_LEAF_INDEX_H

#include "graph/node.h"

ds_node *ds_leaf_index_find(const ds_graph *g, const char *name);
ds_status ds_leaf_index_add(ds_graph *g, ds_node *leaf);
void ds_leaf_index_free(ds_graph *g);

#endif
