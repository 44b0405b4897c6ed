/* From a graph to numbers: backend, state, passes, program.
 *
 *     ds_graph *graph = ds_graph_new(); // … and a model in it, such as that of graph.h
 *     ds_backend *cpu;  ds_state *state;  ds_program *program;
 *     float pixels[32 * 784] = {0}, loss;
 *     ds_backend_open("cpu", (ds_backend_opts){0}, &cpu);
 *     ds_state_new(cpu, &state);
 *     ds_compile(graph, state, (ds_compile_opts){.loss = "loss"}, &program); // with gradients
 *     ds_state_init(state, 42); // draws the parameters
 *     ds_program_write(program, "x", pixels, sizeof pixels);
 *     ds_program_run(program);
 *     ds_program_read(program, "loss", &loss, sizeof loss);
 *
 * A backend is a device with its own memory. A state holds the tensors that outlive a run, by name;
 * several programs share one. A program is a flat list of kernel calls over planned memory. Handles
 * are used by one thread at a time. */
#ifndef DEEPSEEK_COMPILE_H
#define DEEPSEEK_COMPILE_H

#include "deepseek/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- backends ------------------------------------------------------------------------------ */

typedef struct ds_backend ds_backend;

typedef struct ds_backend_opts {
    int n_threads; /* 0 = as many as there are cores */
} ds_backend_opts;

typedef struct ds_backend_info {
    char name[16];   /* "cpu", "ref" */
    char device[96]; /* the processor's own name */
    char isa[32];    /* instruction set the kernels were chosen for */
    int n_threads;
    size_t memory_size; /* of the device, bytes */
} ds_backend_info;

/* name: "cpu" (fast) or "ref" (plain C, the oracle). DS_NOT_FOUND names those there are. */
DS_API ds_status ds_backend_open(const char *name, ds_backend_opts opts, ds_backend **out);
DS_API void ds_backend_close(ds_backend *backend);
DS_API const ds_backend_info *ds_backend_get_info(const ds_backend *backend);
/* Floating-point operations a second that this device can do at best with products of this dtype,
 * measured on the first call (some hundredths of a second); 0: unknown. A dtype without
 * instructions of its own goes through f32, and f32's peak is its limit. */
DS_API double ds_backend_peak_flops(ds_backend *backend, ds_dtype dtype);

/* ---- state --------------------------------------------------------------------------------- */

typedef struct ds_state ds_state;

typedef struct ds_state_entry {
    const char *name; /* borrowed from the state */
    ds_dtype dtype;
    int rank;
    int64_t dims[DS_MAX_RANK];
    ds_init init;
    bool is_param;
} ds_state_entry;

DS_API ds_status ds_state_new(ds_backend *backend, ds_state **out);
DS_API void ds_state_free(ds_state *state);
/* Makes room for every parameter and variable of the graph that is not there yet (ds_compile does
 * so too). DS_INVALID when a tensor of that name has another shape or dtype. */
DS_API ds_status ds_state_declare(ds_state *state, const ds_graph *g);
/* Draws every entry's initial values: the numbers depend on seed, name and element index alone. */
DS_API ds_status ds_state_init(ds_state *state, uint64_t seed);
DS_API size_t ds_state_count(const ds_state *state);
/* Entry i in order of declaration; or by name: -1 if there is none. */
DS_API const ds_state_entry *ds_state_get(const ds_state *state, size_t i);
DS_API int64_t ds_state_find(const ds_state *state, const char *name);
/* Whole tensor from or to host memory, row-major; size_bytes must be the tensor's. */
DS_API ds_status ds_state_write(ds_state *state, const char *name, const void *data,
                                size_t size_bytes);
DS_API ds_status ds_state_read(const ds_state *state, const char *name, void *data,
                               size_t size_bytes);
/* size_bytes of it from offset_bytes on, which must lie within the tensor. */
DS_API ds_status ds_state_read_at(const ds_state *state, const char *name, size_t offset_bytes,
                                  void *data, size_t size_bytes);
DS_API ds_status ds_state_write_at(ds_state *state, const char *name, size_t offset_bytes,
                                   const void *data, size_t size_bytes);
/* Bytes of all entries. */
DS_API size_t ds_state_size(const ds_state *state);

/* ---- programs ------------------------------------------------------------------------------ */

typedef struct ds_program ds_program;

typedef enum ds_precision { DS_PRECISION_FULL, DS_PRECISION_BF16, DS_PRECISION_FP16 } ds_precision;
/* What training makes of products with parameters, so that they can be quantised afterwards. */
typedef enum ds_quantisation {
    DS_QUANTISE_NONE,
    DS_QUANTISE_W8A16, /* int8 weights, a scale for each output channel */
    DS_QUANTISE_W8A8,  /* activations too, a scale for each token */
} ds_quantisation;
typedef enum ds_recompute {
    DS_RECOMPUTE_NONE,
    DS_RECOMPUTE_SELECTIVE,
    DS_RECOMPUTE_FULL
} ds_recompute;
typedef enum ds_offload { DS_OFFLOAD_NONE, DS_OFFLOAD_HOST, DS_OFFLOAD_FILE } ds_offload;

typedef struct ds_compile_opts {
    ds_precision precision;       /* of matrix products, attention and activations */
    const char *loss;             /* differentiate this output; NULL = forward only */
    bool accumulate;              /* gradients are added to "grad/NAME"; else written over it */
    ds_quantisation quantisation; /* of products with parameters that are read by nothing else */
    ds_recompute recompute;
    ds_offload offload;       /* activations between forward and backward */
    const char *offload_path; /* folder for DS_OFFLOAD_FILE */
    bool no_fused_attention;  /* attention by its parts, the score matrix in memory */
    bool no_fuse;
    bool plan_only;          /* memory is planned but not taken; the program cannot run */
    const ds_program *share; /* use the working memory of this program; they never run at once */
    /* Called with the graph after each stage ("model", "precision", "autodiff", …). */
    void (*on_stage)(const char *stage, const ds_graph *g, void *context);
    /* Called once, at the end, with the flat list of steps: the stage "plan". */
    void (*on_plan)(const ds_program *program, void *context);
    void *context; /* of both */
} ds_compile_opts;

/* Input of a program with opts.loss: f32 rank 0, the number that the gradient starts from: 1 for
 * the plain gradient; loss scale / number of predicted tokens in training. */
#define DS_LOSS_SEED "loss_seed"
/* The gradient of a parameter, a variable of the state. */
#define DS_GRADIENT_PREFIX "grad/"

typedef struct ds_memory_report {
    size_t parameters; /* bytes of each kind */
    size_t gradients;
    size_t optimizer; /* every other variable */
    size_t derived;   /* copies of parameters that are kept between runs: casts */
    size_t inputs;
    size_t working; /* peak of activations and temporaries, packed */
    size_t host;    /* offloaded */
    double flops;   /* of one run */
    size_t n_kernels;
} ds_memory_report;

DS_API ds_status ds_compile(const ds_graph *g, ds_state *state, ds_compile_opts opts,
                            ds_program **out);
DS_API void ds_program_free(ds_program *program);
/* Host memory to an input; size_bytes must be the input's. Kept until written again. */
DS_API ds_status ds_program_write(ds_program *program, const char *input, const void *data,
                                  size_t size_bytes);
/* Key and sample offset of the random numbers of the coming runs (dropout). */
DS_API ds_status ds_program_seed(ds_program *program, int64_t key, int64_t sample_offset);
DS_API ds_status ds_program_run(ds_program *program);
/* An output to host memory, row-major; waits for the run to end. */
DS_API ds_status ds_program_read(ds_program *program, const char *output, void *data,
                                 size_t size_bytes);
DS_API const ds_memory_report *ds_program_memory(const ds_program *program);
/* The steps in their order as text, or Graphviz when dot: op, result with its place in memory,
 * places of the inputs, size and cost. "work+0x40" is an offset into working memory, "host+0x40"
 * into the host arena. */
DS_API void ds_program_print(const ds_program *program, FILE *out, bool dot);
/* Measures each op from now on (the mean over runs), or stops; printed as a table, most first. */
DS_API void ds_program_profile(ds_program *program, bool enable);
DS_API void ds_program_print_profile(const ds_program *program, FILE *out);

#ifdef __cplusplus
}
#endif
#endif
