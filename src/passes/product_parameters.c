/* Which parameters can be quantised: those that only products read. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"
#include "graph/ops/ops.h"
#include "passes/passes.h"

/* What a reader says of a parameter; looking rows up says nothing against products. */
typedef enum reading { AS_OTHER, AS_TABLE, AS_ROWS, AS_COLUMNS } reading;

static reading reading_of(const ds_node *reader, int input) {
    const ds_matmul_attrs *t = reader->attrs;
    if (reader->op == &ds_op_gather && input == 0)
        return AS_TABLE;
    if (reader->op != &ds_op_matmul || input != 1 || t->transpose_a)
        return AS_OTHER;
    return t->transpose_b ? AS_ROWS : AS_COLUMNS;
}

static ds_product_side side_of(const ds_node *x, unsigned readings) {
    if (x->op != &ds_op_param || x->type.rank != 2 || ds_ends_with(x->name, "gate.weight"))
        return DS_NO_PRODUCT;
    switch (readings) {
    case 1u << AS_ROWS: return DS_BY_ROWS;
    case 1u << AS_COLUMNS: return DS_BY_COLUMNS;
    case 1u << AS_ROWS | 1u << AS_TABLE: return DS_TIED;
    default: return DS_NO_PRODUCT;
    }
}

ds_product_side *ds_product_parameters(const ds_graph *g) {
    ds_product_side *sides = ds_calloc(g->n_nodes + 1, sizeof *sides);
    unsigned *readings = ds_calloc(g->n_nodes + 1, sizeof *readings);
    for (size_t i = 0; sides && readings && i < g->n_nodes; i++)
        for (int k = 0; k < g->nodes[i]->n_inputs; k++)
            readings[g->nodes[i]->inputs[k]->id] |= 1u << reading_of(g->nodes[i], k);
    for (size_t i = 0; sides && readings && i < g->n_nodes; i++)
        sides[i] = side_of(g->nodes[i], readings[i]);
    const bool is_whole = sides && readings;
    free(readings);
    if (!is_whole) {
        free(sides);
        return NULL;
    }
    return sides;
}
