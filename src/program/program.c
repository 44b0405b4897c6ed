/* Running programs: binding tensors to memory, kernel after kernel, reading and writing. */
#include "program/program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "graph/ops/ops.h"

/* ---- working memory -------------------------------------------------------------------------- */

ds_status ds_working_memory_new(ds_backend *backend, const char *host_folder,
                                ds_working_memory **out) {
    ds_working_memory *m = ds_calloc(1, sizeof *m);
    if (!m)
        return DS_OUT_OF_MEMORY;
    *m = (ds_working_memory){.backend = backend, .n_owners = 1, .generation = 1};
    if (host_folder && !(m->host_folder = ds_strdup(host_folder))) {
        free(m);
        return DS_OUT_OF_MEMORY;
    }
    *out = m;
    return DS_OK;
}

/* Memory that the system may write out to a file, which has no name and goes with the process. */
static ds_status map_file(const char *folder, size_t size_bytes, void **out) {
    const int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0)
        return ds_fail_errno("%s: no file for offloaded activations can be made here", folder);
    const int refused = posix_fallocate(fd, 0, (off_t)size_bytes); /* a full disk is known now */
    void *p = MAP_FAILED;
    if (refused == 0)
        p = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    else
        errno = refused;
    const ds_status status =
        p == MAP_FAILED
            ? ds_fail_errno("%s: %zu bytes for offloaded activations", folder, size_bytes)
            : DS_OK;
    close(fd);
    *out = p;
    return status;
}

static bool is_file(const ds_working_memory *m, ds_space space) {
    return space == DS_SPACE_HOST && m->host_folder;
}

static void release_space(ds_working_memory *m, ds_space space) {
    if (!m->base[space])
        return;
    if (is_file(m, space))
        munmap(m->base[space], m->size_bytes[space]);
    else
        m->backend->ops->release(m->backend, space, m->base[space], m->size_bytes[space]);
}

static ds_status reserve(ds_working_memory *m, ds_space space, size_t need) {
    if (need <= m->size_bytes[space])
        return DS_OK;
    void *moved = NULL;
    if (is_file(m, space))
        DS_TRY(map_file(m->host_folder, need, &moved));
    else
        DS_TRY(m->backend->ops->alloc(m->backend, space, need, &moved));
    release_space(m, space);
    m->base[space] = moved;
    m->size_bytes[space] = need;
    m->generation++;
    return DS_OK;
}

ds_status ds_working_memory_reserve(ds_working_memory *m, size_t device_bytes, size_t host_bytes) {
    DS_TRY(reserve(m, DS_SPACE_DEVICE, device_bytes));
    return reserve(m, DS_SPACE_HOST, host_bytes);
}

void ds_working_memory_free(ds_working_memory *m) {
    if (!m || --m->n_owners > 0)
        return;
    for (int space = 0; space < 2; space++)
        release_space(m, (ds_space)space);
    free(m->host_folder);
    free(m);
}

void ds_program_free(ds_program *p) {
    if (!p)
        return;
    for (int s = 0; p->steps && s < p->plan.n_steps; s++)
        if (p->steps[s].state && p->steps[s].kernel->release)
            p->steps[s].kernel->release(p->steps[s].state);
    if (p->inputs)
        p->backend->ops->release(p->backend, DS_SPACE_DEVICE, p->inputs, p->inputs_bytes);
    ds_working_memory_free(p->memory);
    ds_plan_free(&p->plan);
    free(p->steps);
    free(p->tensors);
    free(p->profile);
    ds_graph_free(p->graph);
    free(p);
}

/* ---- binding --------------------------------------------------------------------------------- */

static ds_tensor *tensor_of(const ds_program *p, const ds_node *x) {
    if (x->op == &ds_op_result)
        return &p->tensors[(size_t)x->inputs[0]->id * DS_MAX_RESULTS + (size_t)ds_result_index(x)];
    return &p->tensors[(size_t)x->id * DS_MAX_RESULTS];
}

static void *at(void *base, size_t offset) {
    return base ? (char *)base + offset : NULL;
}

static void *memory_of(const ds_program *p, const ds_value_plan *v) {
    const ds_working_memory *m = p->memory;
    switch (v->place) {
    case DS_PLACE_ARENA:
        return m ? at(m->base[DS_SPACE_DEVICE], p->plan.buffers[v->buffer].offset) : NULL;
    case DS_PLACE_HOST:
        return m ? at(m->base[DS_SPACE_HOST], p->plan.buffers[v->buffer].offset) : NULL;
    case DS_PLACE_INPUT: return at(p->inputs, p->plan.buffers[v->buffer].offset);
    case DS_PLACE_STATE: {
        const int64_t i = ds_state_find(p->state, v->of->name);
        return i >= 0 ? ds_state_memory(p->state, (size_t)i) : NULL;
    }
    default: return NULL;
    }
}

static void bind_results(ds_program *p, const ds_node *x) {
    const int n = x->op->n_results > 1 ? x->op->n_results : 1;
    for (int k = 0; k < n; k++) {
        const ds_value_plan *v = &p->plan.values[(size_t)x->id * DS_MAX_RESULTS + (size_t)k];
        const ds_type *type = n > 1 ? &x->result_types[k] : &x->type;
        ds_tensor *t = &p->tensors[(size_t)x->id * DS_MAX_RESULTS + (size_t)k];
        void *derived = t->data;
        *t = ds_tensor_of(NULL, type->dtype, type->rank, type->dims);
        if (v->place == DS_PLACE_ALIAS)
            t->data = tensor_of(p, v->of)->data;
        else if (v->place == DS_PLACE_DERIVED)
            t->data = derived;
        else
            t->data = memory_of(p, v);
    }
}

void ds_program_bind(ds_program *p) {
    for (int s = 0; s < p->plan.n_prologue; s++)
        if (p->steps[s].derived)
            tensor_of(p, p->steps[s].node)->data = p->steps[s].derived->memory;
    for (size_t i = 0; i < p->graph->n_nodes; i++) {
        const ds_node *x = p->graph->nodes[i];
        if (x->op == &ds_op_result)
            continue;
        if (!ds_node_has(x, DS_VIEW)) {
            bind_results(p, x);
            continue;
        }
        ds_tensor *t = tensor_of(p, x);
        *t = ds_tensor_of(NULL, x->type.dtype, x->type.rank, x->type.dims);
        x->op->view(x, tensor_of(p, x->inputs[0]), t);
    }
    for (int s = 0; s < p->plan.n_steps; s++) {
        ds_step *step = &p->steps[s];
        for (int k = 0; k < step->n_inputs; k++)
            step->inputs[k] = *tensor_of(p, step->node->inputs[k]);
        for (int k = 0; k < step->n_outputs; k++)
            step->outputs[k] = p->tensors[(size_t)step->node->id * DS_MAX_RESULTS + (size_t)k];
    }
    p->bound_generation = p->memory ? p->memory->generation : 0;
}

/* ---- running --------------------------------------------------------------------------------- */

static ds_status run_step(ds_program *p, const ds_step *step) {
    const ds_kernel_args args = {
        .node = step->node,
        .n_inputs = step->n_inputs,
        .n_outputs = step->n_outputs,
        .inputs = step->inputs,
        .outputs = step->outputs,
        .workspace = step->workspace_bytes
                         ? at(p->memory->base[DS_SPACE_DEVICE], p->plan.working_bytes)
                         : NULL,
        .state = step->state,
        .n_threads = p->backend->info.n_threads,
    };
    const ds_status status = step->kernel->run(&args, NULL);
    return status == DS_OK
               ? DS_OK
               : ds_fail_within(status, "%s: %s", step->node->scope, step->node->op->name);
}

static ds_status run_range(ds_program *p, int from, int to) {
    const uint64_t version = ds_state_version(p->state);
    for (int s = from; s < to; s++) {
        ds_step *step = &p->steps[s];
        if (step->derived && step->derived->version == version)
            continue;
        const double start = p->profile ? ds_clock_s() : 0;
        DS_TRY(run_step(p, step));
        if (step->derived)
            step->derived->version = version;
        if (p->profile) {
            DS_TRY(p->backend->ops->synchronise(p->backend, NULL));
            p->profile[s] += ds_clock_s() - start;
        }
    }
    return DS_OK;
}

ds_status ds_program_run(ds_program *p) {
    if (!p->memory)
        return ds_fail(DS_INVALID, "this program was only planned (plan_only), it cannot run");
    if (p->bound_generation != p->memory->generation)
        ds_program_bind(p);
    DS_TRY(run_range(p, 0, p->plan.n_steps));
    p->profile_runs++;
    if (p->changes_params)
        ds_state_touch(p->state);
    return DS_OK;
}

static ds_status find_input(const ds_program *p, const char *name, size_t size_bytes,
                            ds_tensor **out) {
    const ds_node *x = ds_graph_find_leaf(p->graph, name);
    if (!x || (x->op != &ds_op_input && x->op != &ds_op_seed))
        return ds_fail(DS_NOT_FOUND, "the program has no input \"%s\"", name);
    if (ds_type_size(&x->type) != size_bytes)
        return ds_fail(DS_INVALID, "input \"%s\" has %zu bytes, not %zu", name,
                       ds_type_size(&x->type), size_bytes);
    *out = tensor_of(p, x);
    return DS_OK;
}

ds_status ds_program_write(ds_program *p, const char *input, const void *data, size_t size_bytes) {
    ds_tensor *t = NULL;
    DS_TRY(find_input(p, input, size_bytes, &t));
    if (!p->memory)
        return ds_fail(DS_INVALID, "this program was only planned (plan_only)");
    return p->backend->ops->copy(p->backend, DS_TO_DEVICE, t->data, data, size_bytes, NULL);
}

ds_status ds_program_seed(ds_program *p, int64_t key, int64_t sample_offset) {
    const int64_t words[DS_SEED_WORDS] = {key, sample_offset};
    if (!ds_graph_find_leaf(p->graph, DS_SEED_NAME))
        return DS_OK; /* nothing random in it */
    return ds_program_write(p, DS_SEED_NAME, words, sizeof words);
}

ds_status ds_program_read(ds_program *p, const char *output, void *data, size_t size_bytes) {
    const ds_node *x = NULL;
    for (size_t i = 0; i < p->graph->n_outputs; i++)
        if (strcmp(p->graph->outputs[i].name, output) == 0)
            x = p->graph->outputs[i].node;
    if (!x)
        return ds_fail(DS_NOT_FOUND, "the program has no output \"%s\"", output);
    if (ds_type_size(&x->type) != size_bytes)
        return ds_fail(DS_INVALID, "output \"%s\" has %zu bytes, not %zu", output,
                       ds_type_size(&x->type), size_bytes);
    ds_backend *b = p->backend;
    DS_TRY(b->ops->copy(b, DS_TO_HOST, data, tensor_of(p, x)->data, size_bytes, NULL));
    return b->ops->synchronise(b, NULL);
}

const ds_memory_report *ds_program_memory(const ds_program *p) {
    return &p->report;
}

/* ---- profile --------------------------------------------------------------------------------- */

void ds_program_profile(ds_program *p, bool enable) {
    free(p->profile);
    p->profile_runs = 0;
    p->profile = enable ? ds_calloc((size_t)p->plan.n_steps + 1, sizeof *p->profile) : NULL;
}

typedef struct profile_row {
    char what[64];
    double seconds, flops, bytes;
    int calls;
} profile_row;

static int slower_first(const void *a, const void *b) {
    const double x = ((const profile_row *)a)->seconds, y = ((const profile_row *)b)->seconds;
    return (x < y) - (x > y);
}

enum { MAX_ROWS = 256 };

static void describe_step(const ds_node *x, char *out, size_t size) {
    ds_text text = {0};
    if (x->op->describe && x->op != &ds_op_fill)
        x->op->describe(x, &text);
    snprintf(out, size, "%s %s%s", x->op->name, text.data ? text.data : "",
             x->phase == DS_BACKWARD ? " (backward)" : "");
    ds_text_clear(&text);
}

void ds_program_print_profile(const ds_program *p, FILE *out) {
    static _Thread_local profile_row rows[MAX_ROWS];
    int n = 0;
    double total = 0;
    for (int s = 0; p->profile && s < p->plan.n_steps; s++) {
        const ds_node *x = p->steps[s].node;
        char what[64];
        describe_step(x, what, sizeof what);
        int i = 0;
        while (i < n && strcmp(rows[i].what, what) != 0)
            i++;
        if (i == MAX_ROWS)
            i--;
        if (i == n)
            memcpy(memset(&rows[n++], 0, sizeof *rows), what, sizeof what);
        const ds_cost cost = ds_node_cost(x);
        rows[i].seconds += p->profile[s] / (p->profile_runs > 0 ? p->profile_runs : 1);
        rows[i].flops += cost.flops;
        rows[i].bytes += cost.bytes;
        rows[i].calls++;
        total += p->profile[s] / (p->profile_runs > 0 ? p->profile_runs : 1);
    }
    qsort(rows, (size_t)n, sizeof *rows, slower_first);
    fprintf(out, "%8s %6s %6s %9s %8s  %s\n", "ms", "share", "calls", "GFLOP/s", "GB/s", "op");
    for (int i = 0; i < n; i++)
        fprintf(out, "%8.2f %5.1f%% %6d %9.1f %8.1f  %s\n", 1e3 * rows[i].seconds,
                100 * rows[i].seconds / total, rows[i].calls,
                1e-9 * rows[i].flops / rows[i].seconds, 1e-9 * rows[i].bytes / rows[i].seconds,
                rows[i].what);
}
