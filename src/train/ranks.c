/* Ranks that train one model together, each with its share of every batch. All take the same steps
 * with the same numbers: rank 0 resumes and tells the others, gradients are summed, and whoever is
 * asked to stop asks all. Rank 0 alone writes: record, display, samples, checkpoints. */
#include <string.h>

#include "base/error.h"
#include "parallel/gradients.h"
#include "train/trainer.h"

int ds_trainer_rank(const ds_trainer *t) {
    return t->opts.comm ? ds_comm_rank(t->opts.comm) : 0;
}

int ds_trainer_n_ranks(const ds_trainer *t) {
    return t->opts.comm ? ds_comm_size(t->opts.comm) : 1;
}

ds_status ds_trainer_check_ranks(const ds_trainer *t) {
    if (ds_trainer_n_ranks(t) == 1)
        return DS_OK;
    if (t->config->dynamic_batch.enabled)
        return ds_fail(DS_UNSUPPORTED, "dynamic_batch.enabled: not with several ranks, whose "
                                       "batches must be alike; set it to false");
    const int64_t product = t->config->training.micro_batch *
                            (int64_t)t->config->training.gradient_accumulation_steps *
                            ds_trainer_n_ranks(t);
    if (product != t->config->training.global_batch)
        return ds_fail(DS_INVALID, "the configuration was resolved for another number of ranks");
    return DS_OK;
}

ds_status ds_trainer_in_turn(ds_trainer *t, ds_status (*work)(ds_trainer *)) {
    const ds_comm_call call = {.name = "data of rank 0"};
    if (ds_trainer_rank(t) > 0)
        DS_TRY(ds_comm_barrier(t->opts.comm, call));
    DS_TRY(work(t));
    return ds_trainer_rank(t) == 0 && t->opts.comm ? ds_comm_barrier(t->opts.comm, call) : DS_OK;
}

/* From rank 0. */
static ds_status tell(ds_trainer *t, void *data, size_t size_bytes, const char *name) {
    return ds_comm_broadcast(t->opts.comm, data, (int64_t)size_bytes, DS_I8, 0,
                             (ds_comm_call){.name = name});
}

ds_status ds_trainer_share_progress(ds_trainer *t) {
    if (ds_trainer_n_ranks(t) == 1)
        return DS_OK;
    if (!t->sync)
        DS_TRY(ds_gradient_sync_new(t->state, t->opts.comm, &t->sync));
    DS_TRY(tell(t, &t->progress, sizeof t->progress, "progress"));
    if (t->progress.step > 0) /* else all have begun from one seed */
        DS_TRY(ds_gradient_sync_state(t->sync, 0));
    return ds_trainer_rank(t) > 0 ? ds_loader_seek(t->train_data, t->progress.samples) : DS_OK;
}

ds_status ds_trainer_share_plan(ds_trainer *t) {
    if (ds_trainer_n_ranks(t) == 1)
        return DS_OK;
    return tell(t, &t->progress.planned_steps, sizeof t->progress.planned_steps, "planned steps");
}

ds_status ds_trainer_join_batch(ds_trainer *t) {
    if (ds_trainer_n_ranks(t) == 1)
        return DS_OK;
    int64_t sums[] = {t->batch.n_predicted, atomic_load(&t->stop) != 0};
    DS_TRY(ds_comm_all_reduce(t->opts.comm, sums, sums, 2, DS_I64, DS_COMM_SUM,
                              (ds_comm_call){.name = "predicted tokens"}));
    t->batch.n_predicted = sums[0];
    t->all_stop = sums[1] > 0;
    return DS_OK;
}

ds_status ds_trainer_join_gradients(ds_trainer *t, double *loss) {
    if (ds_trainer_n_ranks(t) == 1)
        return DS_OK;
    float sum = (float)*loss;
    DS_TRY(ds_gradient_sync_run(t->sync));
    DS_TRY(ds_comm_all_reduce(t->opts.comm, &sum, &sum, 1, DS_F32, DS_COMM_SUM,
                              (ds_comm_call){.name = "loss"}));
    *loss = (double)sum;
    return DS_OK;
}
