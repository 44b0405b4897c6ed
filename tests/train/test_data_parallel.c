/* Several ranks train what one trains: the same losses for the same batches, one run folder, whole
 * checkpoints that any number of ranks goes on from, and an end for all when one is stopped. The
 * ranks are threads of this process. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "deepseek/comm.h"
#include "deepseek/train.h"
#include "support/training_run.h"

enum { MOST_RANKS = 4 };

typedef struct rank_run {
    pthread_t thread;
    ds_comm *comm;
    const char *folder;
    const char *const *overrides;
    size_t n;
    bool stop_early; /* asks for the end before the first step */
    ds_status status;
    char error[512];
} rank_run;

static ds_status train(rank_run *r) {
    ds_train_config config;
    ds_trainer *t = NULL;
    configure(r->folder, r->overrides, r->n, &config);
    config.training.global_batch *= ds_comm_size(r->comm);
    ds_status status =
        ds_trainer_new(&config, (ds_trainer_opts){.progress_fd = -1, .comm = r->comm}, &t);
    if (status == DS_OK && r->stop_early)
        ds_trainer_stop(t);
    if (status == DS_OK)
        status = ds_trainer_run(t);
    if (status != DS_OK)
        snprintf(r->error, sizeof r->error, "%s", ds_error());
    ds_trainer_free(t);
    ds_train_config_free(&config);
    return status;
}

static void *run_rank(void *context) {
    rank_run *r = context;
    r->status = train(r);
    ds_comm_close(r->comm);
    return NULL;
}

/* Ranks for which `stop_early` is set ask for the end at once. */
static void run_ranks(rank_run *ranks, int n_ranks, const char *folder,
                      const char *const *overrides, size_t n) {
    ds_comm *comms[MOST_RANKS];
    assert_int_equal(ds_comm_open_threads(n_ranks, (ds_comm_opts){0}, comms), DS_OK);
    for (int i = 0; i < n_ranks; i++) {
        ranks[i].comm = comms[i];
        ranks[i].folder = folder;
        ranks[i].overrides = overrides;
        ranks[i].n = n;
        assert_int_equal(pthread_create(&ranks[i].thread, NULL, run_rank, &ranks[i]), 0);
    }
    for (int i = 0; i < n_ranks; i++)
        pthread_join(ranks[i].thread, NULL);
}

static void run_all(int n_ranks, const char *folder, const char *const *overrides, size_t n) {
    rank_run ranks[MOST_RANKS] = {0};
    run_ranks(ranks, n_ranks, folder, overrides, n);
    for (int i = 0; i < n_ranks; i++)
        if (ranks[i].status != DS_OK)
            fail_msg("rank %d: %s", i, ranks[i].error);
}

static void assert_same_losses(const char *a, const char *b, size_t steps) {
    double *x = NULL, *y = NULL;
    assert_int_equal(losses(a, &x), steps);
    assert_int_equal(losses(b, &y), steps);
    for (size_t i = 0; i < steps; i++)
        if (!(fabs(x[i] - y[i]) <= 1e-5 * fabs(x[i])))
            fail_msg("step %zu: %s has the loss %.8f, %s %.8f", i + 1, a, x[i], b, y[i]);
    free(x);
    free(y);
}

/* 12 samples a step, whoever computes them. */
static void test_any_number_of_ranks_gives_the_same_losses(void **state) {
    (void)state;
    static const struct {
        const char *name, *architecture, *dropout;
    } models[] = {
        {"gpt2", "model.architecture=gpt2", "model.dropout=0.1"},
        {"llama", "model.architecture=llama", "model.dropout=0"},
        {"moe", "model.architecture=moe", "model.dropout=0"},
    };
    static const char *const micro[MOST_RANKS + 1] = {
        NULL, "training.gradient_accumulation_steps=12", "training.gradient_accumulation_steps=6",
        "training.gradient_accumulation_steps=4", "training.gradient_accumulation_steps=3"};
    for (size_t m = 0; m < sizeof models / sizeof *models; m++)
        for (int n = 1; n <= MOST_RANKS; n++) {
            char folder[64], alone[64];
            const char *const overrides[] = {
                models[m].architecture,   models[m].dropout,   micro[n],
                "training.micro_batch=1", "training.steps=12", "threads=1"};
            snprintf(folder, sizeof folder, "%s-%d", models[m].name, n);
            snprintf(alone, sizeof alone, "%s-1", models[m].name);
            run_all(n, folder, overrides, sizeof overrides / sizeof *overrides);
            if (n > 1)
                assert_same_losses(alone, folder, 12);
        }
}

/* Samples of BERT have some more, some fewer tokens to predict, and one pair of sentences each. */
static void test_ranks_of_a_bert_give_the_same_losses(void **state) {
    (void)state;
    static const char *const micro[] = {"training.micro_batch=4", "training.micro_batch=2"};
    static const char *const folders[] = {"bert-1", "bert-2"};
    for (int i = 0; i < 2; i++) {
        const char *overrides[BERT_OVERRIDES + 4] = {micro[i], "training.steps=12",
                                                     "model.dropout=0.1", "threads=1"};
        bert_overrides(overrides + 4);
        run_all(i + 1, folders[i], overrides, BERT_OVERRIDES + 4);
    }
    assert_same_losses(folders[0], folders[1], 12);
}

static void test_checkpoints_belong_to_no_number_of_ranks(void **state) {
    (void)state;
    const char *const whole[] = {"training.gradient_accumulation_steps=2", "training.steps=10",
                                 "threads=1", "schedule.decay_steps=10"};
    const char *const half[] = {"training.gradient_accumulation_steps=2", "training.steps=5",
                                "threads=1", "schedule.decay_steps=10"};
    const char *const rest[] = {"training.gradient_accumulation_steps=1", "training.steps=10",
                                "threads=1", "schedule.decay_steps=10"};
    run_all(1, "one", whole, 4);
    run_all(1, "changing", half, 4);
    run_all(2, "changing", rest, 4);
    assert_same_losses("one", "changing", 10);
}

static void test_all_stop_when_one_is_asked(void **state) {
    (void)state;
    rank_run ranks[3] = {[2] = {.stop_early = true}};
    double *values = NULL;
    const char *const overrides[] = {"training.steps=1000", "threads=1"};
    run_ranks(ranks, 3, "stopped", overrides, 2);
    for (int i = 0; i < 3; i++)
        assert_int_equal(ranks[i].status, DS_OK);
    assert_int_equal(losses("stopped", &values), 1); /* the step at hand is ended, and saved */
    free(values);
    char path[512];
    assert_true(ds_folder_exists(file_in("stopped", "checkpoints/step-00000001", path)));
}

static void test_the_failure_of_one_is_told_to_all(void **state) {
    (void)state;
    rank_run ranks[3] = {0};
    const char *const overrides[] = {"data.train=/nowhere/corpus", "threads=1"};
    run_ranks(ranks, 3, "failed", overrides, 2);
    for (int i = 0; i < 3; i++) {
        assert_int_not_equal(ranks[i].status, DS_OK);
        if (!strstr(ranks[i].error, "/nowhere/corpus"))
            fail_msg("rank %d: %s", i, ranks[i].error);
    }
}

static void test_what_ranks_cannot_do_is_refused(void **state) {
    (void)state;
    rank_run ranks[2] = {0};
    const char *const overrides[] = {"dynamic_batch.enabled=true", "threads=1"};
    run_ranks(ranks, 2, "refused", overrides, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ranks[i].status, DS_UNSUPPORTED);
        assert_non_null(strstr(ranks[i].error, "dynamic_batch.enabled"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_number_of_ranks_gives_the_same_losses),
        cmocka_unit_test(test_ranks_of_a_bert_give_the_same_losses),
        cmocka_unit_test(test_checkpoints_belong_to_no_number_of_ranks),
        cmocka_unit_test(test_all_stop_when_one_is_asked),
        cmocka_unit_test(test_the_failure_of_one_is_told_to_all),
        cmocka_unit_test(test_what_ranks_cannot_do_is_refused),
    };
    return cmocka_run_group_tests(tests, make_corpus, remove_corpus);
}
