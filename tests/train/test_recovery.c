/* What a run makes of trouble: gradients that are not finite, full disks, checkpoints of other runs
 * and damaged ones, a signal in the middle. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "support/training_run.h"
#include "train/checkpoint.h"
#include "train/trainer.h"

/* ---- what a run says ------------------------------------------------------------------------- */

static void assert_said(FILE *said, const char *wanted) {
    static char text[1 << 20];
    rewind(said);
    text[fread(text, 1, sizeof text - 1, said)] = '\0';
    if (!strstr(text, wanted))
        fail_msg("\"%s\" was not said, but: %s", wanted, text);
}

/* ---- not finite ------------------------------------------------------------------------------ */

/* Sets one weight of the model, which spoils (NaN) or heals every gradient. */
static float swap_weight(ds_trainer *t, float value) {
    for (size_t i = 0; i < ds_state_count(t->state); i++) {
        const ds_state_entry *e = ds_state_get(t->state, i);
        if (!e->is_param || !strstr(e->name, "ln_f.weight"))
            continue;
        float x[32], former;
        assert_int_equal(ds_state_read(t->state, e->name, x, sizeof x), DS_OK);
        former = x[0];
        x[0] = value;
        assert_int_equal(ds_state_write(t->state, e->name, x, sizeof x), DS_OK);
        return former;
    }
    fail_msg("no such weight");
    return 0;
}

static void run_up_to(ds_trainer *t, int64_t step) {
    t->steps = step;
    if (ds_trainer_run(t) != DS_OK)
        fail_msg("%s", ds_error());
    assert_int_equal(t->progress.step, step);
}

static void assert_record_goes_up(const char *folder, size_t n, const char *metric, double last) {
    double *steps = NULL, *values = NULL;
    assert_int_equal(recorded(folder, metric, &steps, &values), n);
    for (size_t i = 0; i < n; i++)
        assert_true(steps[i] == (double)(i + 1));
    assert_true(values[n - 1] == last);
    free(steps);
    free(values);
}

static void test_skipped_steps_are_counted_over_resumption(void **state) {
    (void)state;
    ds_train_config config;
    const char *const overrides[] = {"training.nan_policy=skip"};
    configure("skip", overrides, 1, &config);
    ds_trainer *t = open_trainer(&config);
    run_up_to(t, 5);
    const float former = swap_weight(t, NAN);
    run_up_to(t, 7);
    swap_weight(t, former);
    run_up_to(t, 10);
    ds_trainer_free(t);
    assert_record_goes_up("skip", 10, "skipped_steps", 2);
    t = open_trainer(&config);
    run_up_to(t, 12);
    ds_trainer_free(t);
    assert_record_goes_up("skip", 12, "skipped_steps", 2);
    ds_train_config_free(&config);
}

static void test_skipping_has_a_limit(void **state) {
    (void)state;
    ds_train_config config;
    const char *const overrides[] = {"training.nan_policy=skip", "training.steps=1000"};
    configure("skip-forever", overrides, 2, &config);
    ds_trainer *t = open_trainer(&config);
    swap_weight(t, NAN);
    assert_int_equal(ds_trainer_run(t), DS_NUMERIC);
    assert_non_null(strstr(ds_error(), "10 steps in a row"));
    assert_non_null(strstr(ds_error(), "parameter is not finite: \"transformer.ln_f.weight\""));
    assert_non_null(strstr(ds_error(), "optimizer.learning_rate")); /* what to do */
    assert_true(t->progress.step < 20);
    ds_trainer_free(t);
    ds_train_config_free(&config);
}

static void test_a_stopped_run_names_what_is_not_finite(void **state) {
    (void)state;
    ds_train_config config;
    configure("stop", NULL, 0, &config);
    ds_trainer *t = open_trainer(&config);
    swap_weight(t, NAN);
    assert_int_equal(ds_trainer_run(t), DS_NUMERIC);
    assert_non_null(strstr(ds_error(), "step 1: 1 parameter is not finite: "));
    ds_trainer_free(t);
    ds_train_config_free(&config);
}

static void test_rewinding_undoes_the_record(void **state) {
    (void)state;
    ds_train_config config;
    char path[512];
    FILE *said = NULL;
    const char *const overrides[] = {"training.nan_policy=rewind", "checkpoint.interval=5",
                                     "training.eval_interval=8"};
    configure("rewind", overrides, 3, &config);
    ds_trainer *t = open_speaking("rewind", &config, &said);
    run_up_to(t, 8);
    file_in("rewind", "checkpoints/step-00000008", path);
    assert_int_equal(ds_folder_remove(path), DS_OK);
    swap_weight(t, NAN);
    const int64_t samples = t->progress.samples;
    run_up_to(t, 20);
    assert_said(said, "rewound to step 5");
    /* steps 6 to 8 were done again, with samples behind those of the failed step 9 */
    assert_int_equal(t->progress.samples, samples + 4 * (1 + 20 - 5));
    ds_trainer_free(t);
    fclose(said);
    assert_record_goes_up("rewind", 20, "rewinds", 1);
    ds_train_config_free(&config);
}

/* The step after the checkpoint goes well each time, the one behind it never does. */
static void test_rewinding_has_a_limit(void **state) {
    (void)state;
    const char *const good[] = {"optimizer.name=sgd", "training.steps=5"};
    const char *const bad[] = {"optimizer.name=sgd", "optimizer.grad_clip=0",
                               "optimizer.learning_rate=1e30", "training.nan_policy=rewind",
                               "training.steps=400"};
    ds_train_config config;
    run("rewind-forever", good, 2);
    configure("rewind-forever", bad, 5, &config);
    ds_trainer *t = open_trainer(&config);
    assert_int_equal(ds_trainer_run(t), DS_NUMERIC);
    assert_non_null(strstr(ds_error(), "still not finite after 3 rewinds"));
    assert_int_equal(t->progress.rewinds, 3);
    ds_trainer_free(t);
    ds_train_config_free(&config);
}

static void test_rewinding_needs_a_checkpoint(void **state) {
    (void)state;
    ds_train_config config;
    const char *const overrides[] = {"training.nan_policy=rewind"};
    configure("rewind-nowhere", overrides, 1, &config);
    ds_trainer *t = open_trainer(&config);
    swap_weight(t, NAN);
    assert_int_equal(ds_trainer_run(t), DS_NOT_FOUND);
    assert_non_null(strstr(ds_error(), "ln_f.weight"));
    assert_non_null(strstr(ds_error(), "no whole checkpoint to go back to"));
    ds_trainer_free(t);
    ds_train_config_free(&config);
}

static void test_a_stuck_loss_scale_names_the_tensors(void **state) {
    (void)state;
    ds_train_config config;
    const char *const overrides[] = {"precision.mode=mixed", "precision.bf16=false",
                                     "precision.fp16=true", "precision.initial_loss_scale=4e9",
                                     "precision.min_loss_scale=4e9"};
    configure("stuck", overrides, 5, &config);
    ds_trainer *t = open_trainer(&config);
    assert_int_equal(ds_trainer_run(t), DS_NUMERIC);
    const char *said = ds_error();
    assert_non_null(strstr(said, "the loss scale is stuck at its minimum, 4e+09"));
    assert_non_null(strstr(said, "gradients are not finite: \"transformer."));
    int named = 0;
    for (const char *at = said; (at = strstr(at, "\"transformer.")); at++)
        named++;
    assert_int_equal(named, 8);
    assert_non_null(strstr(said, " more"));
    ds_trainer_free(t);
    ds_train_config_free(&config);
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

static void test_a_full_disk_does_not_end_the_run(void **state) {
    (void)state;
    /* Of steps 6 to 10 the record writes 2 each, then the checkpoint of step 10 begins. Written in
     * the background it goes side by side with the record, but it alone syncs files. */
    static const struct {
        const char *async;
        ds_fault fault;
        long countdown;
    } ways[] = {{"checkpoint.async=false", DS_FAULT_WRITE, 2 * 5 + 1 + 3},
                {"checkpoint.async=true", DS_FAULT_SYNC, 1}};
    for (int i = 0; i < 2; i++) {
        ds_train_config config;
        FILE *said = NULL;
        char path[512], found[PATH_MAX];
        const char *const overrides[] = {ways[i].async, "checkpoint.interval=5",
                                         "checkpoint.keep_last=0", "checkpoint.resume=never"};
        configure("full-disk", overrides, 4, &config);
        ds_trainer *t = open_speaking("full-disk", &config, &said);
        run_up_to(t, 5);
        ds_fault_arm(ways[i].fault, ways[i].countdown);
        run_up_to(t, 14);
        ds_fault_arm(ways[i].fault, 0);
        assert_said(said, "the checkpoint failed, the one before it stays and training goes on: ");
        ds_trainer_free(t);
        fclose(said);
        assert_false(ds_folder_exists(file_in("full-disk", "checkpoints/step-00000010", path)));
        file_in("full-disk", "checkpoints/step-00000005", path);
        assert_int_equal(ds_checkpoint_verify(path), DS_OK);
        file_in("full-disk", "checkpoints", path);
        assert_int_equal(ds_checkpoint_find(path, DS_VERIFY_ALL, found), DS_OK);
        assert_non_null(strstr(found, "step-00000014"));
        ds_train_config_free(&config);
    }
}

static void test_a_last_checkpoint_that_fails_is_an_error(void **state) {
    (void)state;
    ds_train_config config;
    configure("full-at-last", NULL, 0, &config);
    ds_trainer *t = open_trainer(&config);
    ds_fault_arm(DS_FAULT_RENAME, 1);
    assert_int_equal(ds_trainer_run(t), DS_IO);
    ds_fault_arm(DS_FAULT_RENAME, 0);
    assert_non_null(strstr(ds_error(), "the last checkpoint failed"));
    ds_trainer_free(t);
    ds_train_config_free(&config);
}

/* Saving a step again leaves one whole checkpoint of it, with what the second one holds. */
static void test_a_step_can_be_saved_again(void **state) {
    (void)state;
    ds_train_config config;
    char path[512], *json = NULL;
    configure("again", NULL, 0, &config);
    ds_trainer *t = open_trainer(&config);
    run_up_to(t, 3);
    t->progress.rewinds = 7;
    assert_int_equal(ds_trainer_save(t, true), DS_OK);
    ds_trainer_free(t);
    file_in("again", "checkpoints/step-00000003", path);
    assert_int_equal(ds_checkpoint_verify(path), DS_OK);
    assert_int_equal(ds_checkpoint_read_file(path, "trainer.json", &json), DS_OK);
    assert_non_null(strstr(json, "\"rewinds\": 7"));
    free(json);
    assert_false(ds_folder_exists(file_in("again", "checkpoints/step-00000003.part", path)));
    ds_train_config_free(&config);
}

/* Older checkpoints with higher numbers are not this run's to keep, nor to lose. */
static void test_stale_checkpoints_are_set_aside(void **state) {
    (void)state;
    ds_train_config config;
    FILE *said = NULL;
    char path[512];
    const char *const former[] = {"checkpoint.interval=10", "training.steps=30"};
    const char *const anew[] = {"checkpoint.interval=5", "checkpoint.resume=never"};
    run("stale", former, 2); /* keeps 20 and 30 */
    configure("stale", anew, 2, &config);
    ds_trainer *t = open_speaking("stale", &config, &said);
    run_up_to(t, 12);
    ds_trainer_free(t);
    assert_said(said, "checkpoints/stale-step-00000030");
    fclose(said);
    static const char *const there[] = {"step-00000010", "step-00000012", "stale-step-00000020",
                                        "stale-step-00000030"};
    for (int i = 0; i < 4; i++) {
        char name[64];
        snprintf(name, sizeof name, "checkpoints/%s", there[i]);
        assert_int_equal(ds_checkpoint_verify(file_in("stale", name, path)), DS_OK);
    }
    ds_train_config_free(&config);
}

static void flip_byte(const char *path) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, -5, SEEK_END);
    const int byte = fgetc(f);
    fseek(f, -5, SEEK_END);
    fputc(byte ^ 1, f);
    fclose(f);
}

static void test_damaged_checkpoints_are_set_aside(void **state) {
    (void)state;
    ds_train_config config;
    FILE *said = NULL;
    char path[512];
    const char *const overrides[] = {"checkpoint.interval=10"};
    run("all-damaged", overrides, 1);
    flip_byte(file_in("all-damaged", "checkpoints/step-00000010/trainer.json", path));
    flip_byte(file_in("all-damaged", "checkpoints/step-00000020/model.safetensors", path));
    configure("all-damaged", overrides, 1, &config);
    ds_trainer *t = open_speaking("all-damaged", &config, &said);
    assert_int_equal(t->progress.step, 0);
    run_up_to(t, 6);
    ds_trainer_free(t);
    assert_said(said, "step-00000020/model.safetensors: its MD5 sum");
    assert_said(said, "checkpoints/damaged-step-00000020");
    fclose(said);
    assert_true(ds_folder_exists(file_in("all-damaged", "checkpoints/step-00000006", path)));
    assert_true(
        ds_folder_exists(file_in("all-damaged", "checkpoints/damaged-step-00000010", path)));
    ds_train_config_free(&config);
}

/* ---- a signal in the middle ------------------------------------------------------------------ */

static ds_trainer *signalled;

/* Reads the display of a run, sends a real SIGTERM once step 50 is shown, and takes it, as a
 * program does that stops a trainer on signals. Nothing more is read before, so that a run on a
 * busy machine waits at the full pipe instead of coming to its end. */
static void *interrupt(void *context) {
    char line[4096];
    FILE *shown = context;
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    while (fgets(line, sizeof line, shown)) {
        if (strncmp(line, "step 50/", 8) != 0)
            continue;
        int taken = 0;
        kill(getpid(), SIGTERM);
        if (sigwait(&term, &taken) == 0)
            ds_trainer_stop(signalled);
    }
    fclose(shown);
    return NULL;
}

static void run_interrupted(const char *folder, const char *const *overrides, size_t n) {
    ds_train_config config;
    int ends[2];
    pthread_t reader;
    configure(folder, overrides, n, &config);
    assert_int_equal(pipe(ends), 0);
    assert_true(fcntl(ends[1], F_SETPIPE_SZ, 4096) >= 0);
    FILE *shown = fdopen(ends[0], "r");
    setvbuf(shown, NULL, _IONBF, 0);
    const ds_trainer_opts opts = {.progress_fd = ends[1]};
    if (ds_trainer_new(&config, opts, &signalled) != DS_OK)
        fail_msg("%s", ds_error());
    assert_int_equal(pthread_create(&reader, NULL, interrupt, shown), 0);
    if (ds_trainer_run(signalled) != DS_OK)
        fail_msg("%s", ds_error());
    assert_true(signalled->progress.step >= 50 && signalled->progress.step < 100);
    ds_trainer_free(signalled);
    close(ends[1]);
    pthread_join(reader, NULL);
    ds_train_config_free(&config);
}

static void assert_same_record(const char *a, const char *b, const char *metric, size_t n) {
    double *x = NULL, *y = NULL;
    assert_int_equal(recorded(a, metric, NULL, &x), n);
    assert_int_equal(recorded(b, metric, NULL, &y), n);
    for (size_t i = 0; i < n; i++)
        if (x[i] != y[i])
            fail_msg("step %zu: %s is %g in %s, %g in %s", i + 1, metric, x[i], a, y[i], b);
    free(x);
    free(y);
}

/* 100 steps = 50 + SIGTERM + the rest, bit by bit. */
static void check_signal(const char *name, const char *const *own, size_t n_own) {
    enum { MOST = 6 };
    char whole[64], halves[64];
    const char *overrides[MOST + 2] = {"training.steps=100", "training.log_interval=1"};
    assert_true(n_own <= MOST);
    memcpy(overrides + 2, own, n_own * sizeof *own);
    snprintf(whole, sizeof whole, "%s-whole", name);
    snprintf(halves, sizeof halves, "%s-halves", name);
    run(whole, overrides, n_own + 2);
    run_interrupted(halves, overrides, n_own + 2);
    run(halves, overrides, n_own + 2);
    assert_same_checkpoint(whole, halves, 100);
    assert_same_record(whole, halves, "loss", 100);
    assert_same_record(whole, halves, "loss_scale", 100);
}

static void test_a_signal_costs_no_bit(void **state) {
    (void)state;
    static const struct {
        const char *name, *overrides[5];
    } cases[] = {
        {"plain", {"model.dropout=0"}},
        {"dropout", {"model.dropout=0.2"}},
        {"bf16", {"precision.mode=mixed", "precision.bf16=true", "model.dropout=0.2"}},
        /* the scale falls and rises, and 50 is no multiple of the interval */
        {"fp16",
         {"precision.mode=mixed", "precision.fp16=true", "precision.initial_loss_scale=1048576",
          "precision.growth_interval=7"}},
        {"accumulation", {"training.micro_batch=1", "training.gradient_accumulation_steps=3"}},
        {"muon", {"optimizer.name=muon"}},
        {"adafactor", {"optimizer.name=adafactor"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = 0;
        while (n < 5 && cases[i].overrides[n])
            n++;
        check_signal(cases[i].name, cases[i].overrides, n);
    }
}

static void test_a_signal_costs_a_bert_no_bit(void **state) {
    (void)state;
    const char *overrides[BERT_OVERRIDES + 1] = {"model.dropout=0.2"};
    bert_overrides(overrides + 1);
    check_signal("masked", overrides, BERT_OVERRIDES + 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_skipped_steps_are_counted_over_resumption),
        cmocka_unit_test(test_skipping_has_a_limit),
        cmocka_unit_test(test_a_stopped_run_names_what_is_not_finite),
        cmocka_unit_test(test_rewinding_undoes_the_record),
        cmocka_unit_test(test_rewinding_has_a_limit),
        cmocka_unit_test(test_rewinding_needs_a_checkpoint),
        cmocka_unit_test(test_a_stuck_loss_scale_names_the_tensors),
        cmocka_unit_test(test_a_full_disk_does_not_end_the_run),
        cmocka_unit_test(test_a_last_checkpoint_that_fails_is_an_error),
        cmocka_unit_test(test_a_step_can_be_saved_again),
        cmocka_unit_test(test_stale_checkpoints_are_set_aside),
        cmocka_unit_test(test_damaged_checkpoints_are_set_aside),
        cmocka_unit_test(test_a_signal_costs_no_bit),
        cmocka_unit_test(test_a_signal_costs_a_bert_no_bit),
    };
    sigset_t term; /* blocked in all threads, before there are any */
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &term, NULL);
    return cmocka_run_group_tests(tests, make_corpus, remove_corpus);
}
