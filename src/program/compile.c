/* From a model's graph to a program: the passes in their order, then the plan, then kernels chosen
 * and prepared. */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/rng.h"
#include "graph/ops/ops.h"
#include "passes/passes.h"
#include "program/program.h"

/* ---- passes ---------------------------------------------------------------------------------- */

typedef struct pipeline {
    const ds_compile_opts *opts;
    ds_graph *g; /* the latest stage, owned */
} pipeline;

/* Replaces the present stage by the next; DS_OK only if that is sound. */
static ds_status advance(pipeline *p, const char *stage, ds_graph *next) {
    ds_graph_free(p->g);
    p->g = next;
    if (!next)
        return DS_OUT_OF_MEMORY;
    if (!ds_graph_ok(next))
        return next->status;
    if (p->opts->on_stage)
        p->opts->on_stage(stage, next, p->opts->context);
    return DS_OK;
}

static ds_dtype stored_dtype(const char *param, const void *state) {
    return ds_state_stored_dtype(state, param);
}

static ds_status take_stored(pipeline *p, const ds_state *state) {
    if (!ds_state_is_read_only(state))
        return DS_OK;
    if (p->opts->loss)
        return ds_fail(DS_INVALID, "the parameters of this state are as a trained model's files "
                                   "have them: they can be used, not trained");
    DS_TRY(advance(p, "quantise", ds_pass_quantise(p->g, ds_state_find_quantised, state)));
    return advance(p, "stored", ds_pass_stored(p->g, stored_dtype, state));
}

static ds_status run_passes(pipeline *p, const ds_graph *model, const ds_state *state) {
    const ds_compile_opts *o = p->opts;
    ds_backend *backend = ds_state_backend(state);
    if (!ds_graph_ok(model))
        return model->status;
    DS_TRY(advance(p, "model", ds_graph_rewrite(model, NULL, NULL)));
    if (o->quantisation != DS_QUANTISE_NONE)
        DS_TRY(advance(p, "quantisation_aware", ds_pass_quantisation_aware(p->g, o->quantisation)));
    if (o->precision != DS_PRECISION_FULL)
        DS_TRY(advance(p, "precision", ds_pass_precision(p->g, o->precision)));
    DS_TRY(take_stored(p, state));
    if (o->no_fused_attention)
        DS_TRY(advance(p, "unfuse_attention", ds_pass_unfuse_attention(p->g)));
    if (o->loss)
        DS_TRY(advance(p, "autodiff", ds_pass_autodiff(p->g, o->loss, o->accumulate)));
    if (o->quantisation != DS_QUANTISE_NONE)
        DS_TRY(advance(p, "drop_surrogates", ds_pass_drop_surrogates(p->g)));
    if (!o->no_fuse) {
        DS_TRY(advance(p, "fuse", ds_pass_fuse(p->g)));
        DS_TRY(advance(p, "fuse_elementwise", ds_pass_fuse_elementwise(p->g)));
    }
    if (o->loss && o->recompute != DS_RECOMPUTE_NONE)
        DS_TRY(advance(p, "recompute", ds_pass_recompute(p->g, o->recompute)));
    if (o->loss && o->offload != DS_OFFLOAD_NONE)
        DS_TRY(advance(p, "offload", ds_pass_offload(p->g)));
    if (backend->ops->lower && !o->plan_only)
        DS_TRY(advance(p, "lower", backend->ops->lower(backend, p->g)));
    return advance(p, "contiguous", ds_pass_contiguous(p->g, backend));
}

/* ---- report ---------------------------------------------------------------------------------- */

static void report_leaves(ds_program *p) {
    for (size_t i = 0; i < p->graph->n_nodes; i++) {
        const ds_node *x = p->graph->nodes[i];
        const size_t size = ds_type_size(&x->type);
        if (x->op == &ds_op_param)
            p->report.parameters += size;
        else if (x->op == &ds_op_input || x->op == &ds_op_seed)
            p->report.inputs += size;
        else if (x->op == &ds_op_variable) {
            const bool is_gradient =
                strncmp(x->name, DS_GRADIENT_PREFIX, sizeof DS_GRADIENT_PREFIX - 1) == 0;
            *(is_gradient ? &p->report.gradients : &p->report.optimizer) += size;
        }
    }
}

/* A hash of the expression that x is over parameters: op, attributes, inputs. */
static uint64_t expression_key(const ds_node *x) {
    uint64_t key = ds_hash_name(x->op->name);
    if (x->name)
        return ds_mix64(key ^ ds_hash_name(x->name));
    for (size_t i = 0; i < x->op->attrs_size; i++)
        key = ds_mix64(key + ((const unsigned char *)x->attrs)[i]);
    for (int i = 0; i < x->n_inputs; i++)
        key = ds_mix64(key * 31 + expression_key(x->inputs[i]));
    return key;
}

static int by_key(const void *a, const void *b) {
    const ds_derived *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return (x->size_bytes > y->size_bytes) - (x->size_bytes < y->size_bytes);
}

/* Bytes of derived values as the state holds them: one for each expression, though recomputation
 * leaves several steps that make it. */
static ds_status report_derived(ds_program *p) {
    const size_t n = (size_t)p->plan.n_prologue;
    ds_derived *made = ds_calloc(n + 1, sizeof *made);
    if (!made)
        return DS_OUT_OF_MEMORY;
    for (size_t s = 0; s < n; s++) {
        const ds_node *x = p->graph->nodes[p->plan.steps[s]];
        made[s] = (ds_derived){.key = expression_key(x), .size_bytes = ds_type_size(&x->type)};
    }
    qsort(made, n, sizeof *made, by_key);
    for (size_t s = 0; s < n; s++)
        if (s == 0 || by_key(&made[s - 1], &made[s]) != 0)
            p->report.derived += made[s].size_bytes;
    free(made);
    return DS_OK;
}

static ds_status make_report(ds_program *p) {
    report_leaves(p);
    DS_TRY(report_derived(p));
    for (int s = 0; s < p->plan.n_steps; s++) {
        const ds_node *x = p->graph->nodes[p->plan.steps[s]];
        p->report.flops += ds_node_cost(x).flops;
        for (int k = 0; k < ds_node_n_changed(x); k++)
            p->changes_params = p->changes_params || x->inputs[k]->op == &ds_op_param;
    }
    p->report.working = p->plan.working_bytes + p->workspace_bytes;
    p->report.host = p->plan.host_bytes;
    p->report.n_kernels = (size_t)(p->plan.n_steps - p->plan.n_prologue);
    return DS_OK;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static ds_status allocate_step(ds_program *p, int s) {
    ds_step *step = &p->steps[s];
    const ds_node *x = p->graph->nodes[p->plan.steps[s]];
    *step = (ds_step){.node = x,
                      .n_inputs = x->n_inputs,
                      .n_outputs = x->op->n_results > 1 ? x->op->n_results : 1};
    step->inputs =
        ds_arena_alloc(p->graph->arena, sizeof(ds_tensor) * (size_t)(step->n_inputs + 1));
    step->outputs = ds_arena_alloc(p->graph->arena, sizeof(ds_tensor) * (size_t)step->n_outputs);
    if (!step->inputs || !step->outputs)
        return DS_OUT_OF_MEMORY;
    step->kernel = p->backend->ops->find_kernel(p->backend, x);
    if (!step->kernel)
        return ds_fail_within(DS_UNSUPPORTED, "%s", x->scope);
    if (s < p->plan.n_prologue && p->memory)
        return ds_state_derive(p->state, expression_key(x), ds_type_size(&x->type), &step->derived);
    return DS_OK;
}

static ds_status prepare_steps(ds_program *p) {
    ds_program_bind(p); /* shapes and strides; kernels do not look at data yet */
    for (int s = 0; s < p->plan.n_steps; s++) {
        ds_step *step = &p->steps[s];
        const ds_kernel_args args = {.node = step->node,
                                     .n_inputs = step->n_inputs,
                                     .n_outputs = step->n_outputs,
                                     .inputs = step->inputs,
                                     .outputs = step->outputs,
                                     .n_threads = p->backend->info.n_threads};
        if (!step->kernel->prepare)
            continue;
        const ds_status status = step->kernel->prepare(&args, &step->state, &step->workspace_bytes);
        if (status != DS_OK)
            return ds_fail_within(status, "%s: %s", step->node->scope, step->node->op->name);
        if (step->workspace_bytes > p->workspace_bytes)
            p->workspace_bytes = step->workspace_bytes;
    }
    return DS_OK;
}

static ds_status place_inputs(ds_program *p) {
    for (size_t i = 0; i < p->graph->n_nodes; i++) {
        const ds_node *x = p->graph->nodes[i];
        if (x->op != &ds_op_input && x->op != &ds_op_seed)
            continue;
        ds_value_plan *v = &p->plan.values[i * DS_MAX_RESULTS];
        v->place = DS_PLACE_INPUT;
        v->buffer = (int)p->plan.n_buffers;
        ds_buffer *buffers = ds_grow(p->plan.buffers, &p->plan.buffers_capacity,
                                     p->plan.n_buffers + 1, sizeof *buffers);
        if (!buffers)
            return DS_OUT_OF_MEMORY;
        p->plan.buffers = buffers;
        buffers[p->plan.n_buffers++] =
            (ds_buffer){.size_bytes = ds_type_size(&x->type), .offset = p->inputs_bytes};
        p->inputs_bytes += (ds_type_size(&x->type) + DS_BUFFER_ALIGNMENT - 1) /
                           DS_BUFFER_ALIGNMENT * DS_BUFFER_ALIGNMENT;
    }
    return DS_OK;
}

static ds_status take_memory(ds_program *p, const ds_compile_opts *o) {
    DS_TRY(ds_state_allocate(p->state));
    if (o->share) {
        p->memory = o->share->memory;
        p->memory->n_owners++;
    } else {
        const char *folder =
            o->offload == DS_OFFLOAD_FILE ? (o->offload_path ? o->offload_path : "/tmp") : NULL;
        DS_TRY(ds_working_memory_new(p->backend, folder, &p->memory));
    }
    return p->backend->ops->alloc(p->backend, DS_SPACE_DEVICE, p->inputs_bytes, &p->inputs);
}

static ds_status finish(ds_program *p, const ds_compile_opts *o) {
    DS_TRY(ds_state_declare(p->state, p->graph));
    DS_TRY(ds_plan_make(p->graph, p->backend, &p->plan));
    DS_TRY(place_inputs(p));
    if (!o->plan_only)
        DS_TRY(take_memory(p, o));
    p->steps = ds_calloc((size_t)p->plan.n_steps + 1, sizeof *p->steps);
    p->tensors = ds_calloc(p->graph->n_nodes * DS_MAX_RESULTS, sizeof *p->tensors);
    if (!p->steps || !p->tensors)
        return DS_OUT_OF_MEMORY;
    for (int s = 0; s < p->plan.n_steps; s++)
        DS_TRY(allocate_step(p, s));
    if (!o->plan_only)
        DS_TRY(prepare_steps(p));
    DS_TRY(make_report(p));
    if (p->changes_params && ds_state_is_read_only(p->state))
        return ds_fail(DS_INVALID, "the parameters of this state are read-only: a program that "
                                   "changes them cannot run over it");
    if (!o->plan_only)
        DS_TRY(ds_working_memory_reserve(p->memory, p->report.working, p->report.host));
    return DS_OK;
}

ds_status ds_compile(const ds_graph *g, ds_state *state, ds_compile_opts opts, ds_program **out) {
    *out = NULL;
    ds_program *p = ds_calloc(1, sizeof *p);
    if (!p)
        return DS_OUT_OF_MEMORY;
    p->state = state;
    p->backend = ds_state_backend(state);
    pipeline passes = {.opts = &opts};
    ds_status status = run_passes(&passes, g, state);
    p->graph = passes.g;
    if (status == DS_OK)
        status = finish(p, &opts);
    if (status != DS_OK) {
        ds_program_free(p);
        return status;
    }
    if (opts.on_plan)
        opts.on_plan(p, opts.context);
    *out = p;
    return DS_OK;
}
