/* Groups of element-wise ops as one op each, so that what is between them is never written to
 * memory and read back. A group grows from the op whose value is wanted outside towards its inputs:
 * an op joins when everything that reads it is in the group already, its shape is the group's, and
 * it belongs to the same phase and segment (recomputation and offload decide by those). Casts join
 * without an instruction: registers are f32. Runs after autodiff and after the epilogues, which are
 * better still. */
#include <stdlib.h>

#include "base/alloc.h"
#include "graph/ops/ops.h"
#include "passes/fuse_elementwise.h"
#include "passes/passes.h"

enum { MAX_MEMBERS = 2 * DS_MAX_INSTRUCTIONS };

typedef struct group {
    const ds_node *members[MAX_MEMBERS]; /* the root first, then in the order they joined */
    int n;
    const ds_node *inputs[DS_MAX_FUSED_OPERANDS + 1]; /* operands, then the seed if there is one */
    int n_operands, n_instructions;
    const ds_node *seed;
} group;

typedef struct found_group {
    int root; /* id */
    group members;
} found_group;

typedef struct fuse_pass {
    int *n_uses; /* by id; 0: not needed */
    int *joined; /* by id: index of the group it is in, or −1 */
    found_group *groups;
    int n_groups;
    size_t capacity;
} fuse_pass;

/* A cast of a parameter is kept between runs: it is not made anew in a group. */
static bool is_of_parameter(const ds_node *x) {
    while (ds_node_has(x, DS_VIEW))
        x = x->inputs[0];
    return x->op == &ds_op_param;
}

bool ds_can_join_group(const ds_node *x) {
    if (!ds_dtype_is_float(x->type.dtype) || x->in_host_space)
        return false;
    if (x->op == &ds_op_cast)
        return !is_of_parameter(x->inputs[0]);
    return x->op == &ds_op_unary || x->op == &ds_op_binary || x->op == &ds_op_select ||
           x->op == &ds_op_dropout;
}

/* What x reads element by element: all but dropout's seed. */
static int n_read(const ds_node *x) {
    return x->op == &ds_op_dropout ? 1 : x->n_inputs;
}

static bool is_member(const group *s, const ds_node *x) {
    for (int i = 0; i < s->n; i++)
        if (s->members[i] == x)
            return true;
    return false;
}

bool ds_has_shape_of(const ds_node *a, const ds_node *b) {
    ds_type t = a->type;
    t.dtype = b->type.dtype;
    return ds_type_equal(&t, &b->type);
}

static bool is_read_inside_only(const fuse_pass *pass, const group *s, const ds_node *x) {
    int n = 0;
    for (int i = 0; i < s->n; i++)
        for (int k = 0; k < n_read(s->members[i]); k++)
            n += s->members[i]->inputs[k] == x;
    return n == pass->n_uses[x->id];
}

/* Inputs and instructions of the group as it is; false when they are too many. */
static bool measure(group *s) {
    s->n_operands = s->n_instructions = 0;
    s->seed = NULL;
    for (int i = 0; i < s->n; i++) {
        const ds_node *x = s->members[i];
        s->n_instructions += x->op != &ds_op_cast;
        if (x->op == &ds_op_dropout)
            s->seed = x->inputs[1];
        for (int k = 0; k < n_read(x); k++) {
            const ds_node *in = x->inputs[k];
            bool known = is_member(s, in);
            for (int j = 0; j < s->n_operands && !known; j++)
                known = s->inputs[j] == in;
            if (known)
                continue;
            if (s->n_operands == DS_MAX_FUSED_OPERANDS)
                return false;
            s->inputs[s->n_operands++] = in;
        }
    }
    return s->n_instructions <= DS_MAX_INSTRUCTIONS;
}

static bool join(const fuse_pass *pass, group *s, const ds_node *x) {
    const ds_node *root = s->members[0];
    if (s->n == MAX_MEMBERS || is_member(s, x) || pass->joined[x->id] >= 0 ||
        !ds_can_join_group(x) || x->phase != root->phase || x->segment != root->segment ||
        !ds_has_shape_of(x, root) || !is_read_inside_only(pass, s, x))
        return false;
    s->members[s->n++] = x;
    if (measure(s))
        return true;
    s->n--;
    return false;
}

/* The largest group with this root; in *s. */
static void grow(const fuse_pass *pass, const ds_node *root, group *s) {
    *s = (group){.members = {root}, .n = 1};
    bool grew = true;
    while (grew) { /* one that was read from outside may be all inside now */
        grew = false;
        for (int i = 0; i < s->n; i++)
            for (int k = 0; k < n_read(s->members[i]); k++)
                grew = join(pass, s, s->members[i]->inputs[k]) || grew;
    }
    measure(s);
}

static int by_id(const void *a, const void *b) {
    return (*(const ds_node *const *)a)->id - (*(const ds_node *const *)b)->id;
}

/* The number under which instructions know the value x. */
static int argument(const group *s, const int *value, const ds_node *x) {
    for (int i = 0; i < s->n_operands; i++)
        if (s->inputs[i] == x)
            return i;
    for (int i = 0; i < s->n; i++)
        if (s->members[i] == x)
            return value[i];
    return -1;
}

static ds_instruction instruction_of(const ds_node *x) {
    if (x->op == &ds_op_unary) {
        const ds_unary_attrs *a = x->attrs;
        return (ds_instruction){.step = DS_STEP_UNARY, .kind = (int)a->kind, .alpha = a->alpha};
    }
    if (x->op == &ds_op_binary)
        return (ds_instruction){.step = DS_STEP_BINARY,
                                .kind = (int)((const ds_binary_attrs *)x->attrs)->kind};
    if (x->op == &ds_op_select)
        return (ds_instruction){.step = DS_STEP_SELECT};
    const ds_dropout_attrs *a = x->attrs;
    return (ds_instruction){.step = DS_STEP_DROPOUT, .alpha = a->p, .place = a->place};
}

static ds_fused_elementwise_attrs instructions(group *s) {
    ds_fused_elementwise_attrs attrs = {.dtype = s->members[0]->type.dtype,
                                        .is_random = s->seed != NULL};
    int value[MAX_MEMBERS] = {0};
    qsort(s->members, (size_t)s->n, sizeof *s->members, by_id);
    for (int i = 0; i < s->n; i++) {
        const ds_node *x = s->members[i];
        if (x->op == &ds_op_cast) {
            value[i] = argument(s, value, x->inputs[0]);
            continue;
        }
        ds_instruction *in = &attrs.list[attrs.n];
        *in = instruction_of(x);
        for (int k = 0; k < n_read(x); k++)
            in->args[k] = argument(s, value, x->inputs[k]);
        value[i] = s->n_operands + attrs.n++;
    }
    return attrs;
}

static ds_node *make_fused(const ds_rewrite *r, ds_graph *to, group *s) {
    ds_node *inputs[DS_MAX_FUSED_OPERANDS + 1];
    const ds_fused_elementwise_attrs attrs = instructions(s);
    int n = 0;
    for (; n < s->n_operands; n++)
        inputs[n] = r->map[s->inputs[n]->id];
    if (s->seed)
        inputs[n++] = r->map[s->seed->id];
    return ds_graph_add_node(to, &ds_op_fused_elementwise, &attrs, inputs, n);
}

static ds_node *rewrite_node(ds_rewrite *r, ds_graph *to, const ds_node *node,
                             ds_node *const *given) {
    const fuse_pass *pass = r->context;
    const int at = pass->joined[node->id];
    if (at < 0)
        return ds_graph_copy_node(to, node, given);
    if (node->id != pass->groups[at].root)
        return NULL; /* nothing outside its group reads it */
    return make_fused(r, to, &pass->groups[at].members);
}

static ds_status find_groups(fuse_pass *pass, const ds_graph *g) {
    for (size_t i = g->n_nodes; i-- > 0;) { /* from what is wanted to what it is made of */
        const ds_node *root = g->nodes[i];
        if (pass->joined[i] >= 0 || pass->n_uses[i] == 0 || !ds_can_join_group(root))
            continue;
        group s;
        grow(pass, root, &s);
        if (s.n < 2 || s.n_instructions == 0)
            continue;
        const size_t need = (size_t)pass->n_groups + 1;
        found_group *groups = ds_grow(pass->groups, &pass->capacity, need, sizeof *groups);
        if (!groups)
            return DS_OUT_OF_MEMORY;
        pass->groups = groups;
        groups[pass->n_groups] = (found_group){.root = root->id, .members = s};
        for (int k = 0; k < s.n; k++)
            pass->joined[s.members[k]->id] = pass->n_groups;
        pass->n_groups++;
    }
    return DS_OK;
}

static ds_status count_uses(const ds_graph *g, int *n_uses) {
    bool *needed = ds_graph_reachable(g);
    if (!needed)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < g->n_nodes; i++)
        for (int k = 0; needed[i] && k < g->nodes[i]->n_inputs; k++)
            n_uses[g->nodes[i]->inputs[k]->id]++;
    for (size_t i = 0; i < g->n_outputs; i++)
        n_uses[g->outputs[i].node->id]++;
    free(needed);
    return DS_OK;
}

static ds_graph *make_groups(const ds_graph *g) {
    fuse_pass pass = {.n_uses = ds_calloc(g->n_nodes + 1, sizeof *pass.n_uses),
                      .joined = ds_malloc((g->n_nodes + 1) * sizeof *pass.joined)};
    ds_status status = pass.n_uses && pass.joined ? count_uses(g, pass.n_uses) : DS_OUT_OF_MEMORY;
    for (size_t i = 0; status == DS_OK && i < g->n_nodes; i++)
        pass.joined[i] = -1;
    if (status == DS_OK)
        status = find_groups(&pass, g);
    ds_graph *to = status == DS_OK ? ds_graph_rewrite(g, rewrite_node, &pass) : NULL;
    free(pass.n_uses);
    free(pass.joined);
    free(pass.groups);
    return to;
}

ds_graph *ds_pass_fuse_elementwise(const ds_graph *g) {
    ds_graph *repeated = ds_repeat_cheap(g);
    ds_graph *fused = repeated ? make_groups(repeated) : NULL;
    ds_graph_free(repeated);
    return fused;
}
