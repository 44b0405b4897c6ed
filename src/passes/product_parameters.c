/* Which parameters can be quantised: those that only products read. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "graph/ops/ops.h"
#include "passes/passes.h"

static bool ends_with(const char *name, const char *suffix) {
    const size_t length = strlen(name), n = strlen(suffix);
    return length >= n && strcmp(name + length - n, suffix) == 0;
}

static ds_product_side side_of(const ds_node *reader, int input) {
    const ds_matmul_attrs *t = reader->attrs;
    if (reader->op != &ds_op_matmul || input != 1 || t->transpose_a)
        return DS_NO_PRODUCT;
    return t->transpose_b ? DS_BY_ROWS : DS_BY_COLUMNS;
}

ds_product_side *ds_product_parameters(const ds_graph *g) {
    ds_product_side *sides = ds_calloc(g->n_nodes + 1, sizeof *sides);
    bool *is_refused = ds_calloc(g->n_nodes + 1, sizeof *is_refused);
    for (size_t i = 0; sides && is_refused && i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i]->n_inputs; k++) {
            const ds_node *x = g->nodes[i]->inputs[k];
            const ds_product_side side = side_of(g->nodes[i], k);
            if (x->op != &ds_op_param || is_refused[x->id])
                continue;
            is_refused[x->id] = side == DS_NO_PRODUCT || x->type.rank != 2 ||
                                ends_with(x->name, "gate.weight") ||
                                (sides[x->id] != DS_NO_PRODUCT && sides[x->id] != side);
            sides[x->id] = is_refused[x->id] ? DS_NO_PRODUCT : side;
        }
    const bool is_whole = sides && is_refused;
    free(is_refused);
    if (!is_whole) {
        free(sides);
        return NULL;
    }
    return sides;
}
