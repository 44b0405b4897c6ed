/* Training: from a configuration to a trained model in a folder.
 *
 *     ds_train_config config;
 *     ds_trainer *trainer = NULL;
 *     if (ds_train_config_load("configs/tiny.yaml", NULL, 0, &config) != DS_OK ||
 *         ds_trainer_new(&config, (ds_trainer_opts){.progress_fd = 1}, &trainer) != DS_OK)
 *         fprintf(stderr, "%s\n", ds_error());
 *     else
 *         ds_trainer_run(trainer);
 *     ds_trainer_free(trainer);
 *
 * The run folder (checkpoint.directory) gets config.yaml (resolved), metrics.jsonl, TensorBoard
 * events, loss.svg and checkpoints/. */
#ifndef DEEPSEEK_TRAIN_H
#define DEEPSEEK_TRAIN_H

#include "deepseek/comm.h"
#include "deepseek/compile.h"
#include "deepseek/config.h"
#include "deepseek/models.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ds_trainer ds_trainer;

typedef struct ds_trainer_opts {
    int progress_fd; /* where progress is shown; -1: nowhere */
    /* Everything is checked and planned, no memory is taken (--dry-run). Data that are missing are
     * not checked; the printed plan says so. */
    bool plan_only;
    /* The ranks that train together, each on its share of every batch (data parallelism); NULL: one
     * alone. Borrowed. The configuration must be resolved for as many (ds_train_config_load_ranks).
     * Calls of new and run are those of all ranks; rank 0 writes the run folder. Where a rank
     * fails, the communicator is aborted, and the others fail with its reason. */
    ds_comm *comm;
    /* As in ds_compile_opts, for the training program. */
    void (*on_stage)(const char *stage, const ds_graph *g, void *context);
    void (*on_plan)(const ds_program *program, void *context);
    void *context;
} ds_trainer_opts;

/* Opens data and device, builds the model, and resumes from the newest whole checkpoint if the
 * configuration says so. config is copied by value and its texts are borrowed: it must outlive the
 * trainer. */
DS_API ds_status ds_trainer_new(const ds_train_config *config, ds_trainer_opts opts,
                                ds_trainer **out);
/* Trains to the end, or until ds_trainer_stop: then writes a checkpoint and returns DS_OK. */
DS_API ds_status ds_trainer_run(ds_trainer *trainer);
/* Asks a running trainer to save and return after the step at hand. From any thread. To stop on a
 * signal, block it everywhere and let a thread wait for it (sigwait): a handler would run on top of
 * oneDNN's kernels, which use the stack pointer as one more register, and overwrite their data. */
DS_API void ds_trainer_stop(ds_trainer *trainer);
/* Whether the run came to its last step (not merely stopped). */
DS_API bool ds_trainer_finished(const ds_trainer *trainer);
DS_API void ds_trainer_free(ds_trainer *trainer);

/* What the plan says: parameters, memory by kind, floating-point operations. */
DS_API void ds_trainer_print_plan(const ds_trainer *trainer, FILE *out);

#ifdef __cplusplus
}
#endif
#endif
