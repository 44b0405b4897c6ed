/* Kernels read views in place where they can. Where one cannot, this pass puts a row-major copy in
 * between, and shares it among all readers of the view. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "graph/ops/ops.h"
#include "passes/plan.h"

typedef struct contiguous_pass {
    ds_backend *backend;
    ds_node **copies; /* by id of the new graph: the row-major copy, once made */
    size_t capacity;
} contiguous_pass;

/* Shape and strides of x, data NULL; false where a view needs a copy of its input first. */
static bool layout_of(const ds_node *x, ds_tensor *out) {
    *out = ds_tensor_of(NULL, x->type.dtype, x->type.rank, x->type.dims);
    if (!ds_node_has(x, DS_VIEW))
        return true;
    ds_tensor input;
    return layout_of(x->inputs[0], &input) && x->op->view(x, &input, out);
}

static bool is_row_major(const ds_tensor *t) {
    int64_t stride = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        if (t->dims[i] != 1 && t->strides[i] != stride)
            return false;
        stride *= t->dims[i];
    }
    return true;
}

static ds_node *row_major(contiguous_pass *pass, ds_graph *to, ds_node *x) {
    ds_tensor layout;
    if (layout_of(x, &layout) && is_row_major(&layout))
        return x;
    const size_t need = (size_t)x->id + 1, had = pass->capacity;
    ds_node **copies = ds_grow(pass->copies, &pass->capacity, need, sizeof *copies);
    if (!copies)
        return ds_graph_poison(to, DS_OUT_OF_MEMORY);
    pass->copies = copies;
    if (pass->capacity > had)
        memset(copies + had, 0, (pass->capacity - had) * sizeof *copies);
    if (!copies[x->id]) {
        const ds_phase phase = to->phase;
        to->phase = x->phase;
        copies[x->id] = ds_graph_contiguous(to, x);
        to->phase = phase;
    }
    return copies[x->id];
}

static ds_node *rewrite_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                             ds_node *const *given) {
    contiguous_pass *pass = r->context;
    if (node->n_inputs == 0)
        return ds_graph_copy_node(to, node, given);
    unsigned strided = ~0u; /* views read any strides */
    if (!ds_node_has(node, DS_VIEW)) {
        const ds_kernel *kernel = pass->backend->ops->find_kernel(pass->backend, node);
        if (!kernel)
            return ds_graph_poison(to, DS_UNSUPPORTED);
        strided = kernel->strided_inputs;
    }
    ds_node *few[16] = {0}, **inputs = few;
    if (node->n_inputs > 16 && !(inputs = ds_malloc((size_t)node->n_inputs * sizeof *inputs)))
        return ds_graph_poison(to, DS_OUT_OF_MEMORY);
    for (int i = 0; i < node->n_inputs; i++) {
        const bool any_strides = i < 32 ? strided >> i & 1u : false;
        inputs[i] = any_strides ? given[i] : row_major(pass, to, given[i]);
    }
    ds_node *copy = ds_graph_copy_node(to, node, inputs);
    ds_tensor layout;
    if (copy && ds_node_has(copy, DS_VIEW) && !layout_of(copy, &layout)) {
        inputs[0] = row_major(pass, to, given[0]);
        copy = ds_graph_copy_node(to, node, inputs);
    }
    if (inputs != few)
        free(inputs);
    return copy;
}

ds_graph *ds_pass_contiguous(const ds_graph *g, ds_backend *backend) {
    contiguous_pass pass = {.backend = backend};
    ds_graph *to = ds_graph_rewrite(g, rewrite_node, &pass);
    for (size_t i = 0; to && to->status == DS_OK && i < to->n_outputs; i++)
        to->outputs[i].node = row_major(&pass, to, to->outputs[i].node);
    free(pass.copies);
    return to;
}
