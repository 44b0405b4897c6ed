/* Whole runs of a tiny model: what it learns, bitwise resumption, damaged checkpoints, full disks,
 * and that no switch of memory or batch changes the result. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/md5.h"
#include "base/rng.h"
#include "deepseek/data.h"
#include "deepseek/safetensors.h"
#include "deepseek/train.h"
#include "observe/runlog.h"
#include "support/training_run.h"
#include "train/checkpoint.h"

static void test_the_loss_falls(void **state) {
    (void)state;
    const char *const overrides[] = {"training.steps=150"};
    run("learn", overrides, 1);
    double *loss = NULL;
    const size_t n = losses("learn", &loss);
    assert_int_equal(n, 150);
    assert_true(fabs(loss[0] - log(VOCAB)) < 0.3); /* a fresh model knows nothing */
    assert_true(loss[n - 1] < 2.4);
    free(loss);
}

/* The time left counts down to nothing; the share of the peak goes with the speed, and is left out
 * where no peak is measured. */
static void test_the_record_has_time_and_share(void **state) {
    (void)state;
    double *left = NULL, *share = NULL, *speed = NULL;
    const char *const reference[] = {"device=ref", "training.steps=2"};
    run("shares", NULL, 0);
    assert_int_equal(recorded("shares", "seconds_left", NULL, &left), 20);
    assert_int_equal(recorded("shares", "share_of_peak", NULL, &share), 20);
    assert_int_equal(recorded("shares", "flops_per_s", NULL, &speed), 20);
    assert_true(left[0] > 0 && left[19] == 0);
    for (int i = 0; i < 20; i++) {
        assert_true(share[i] > 0);
        assert_true(fabs(share[i] / speed[i] * speed[0] / share[0] - 1) < 1e-6);
    }
    free(left);
    free(share);
    free(speed);
    run("no-shares", reference, 2);
    assert_int_equal(recorded("no-shares", "seconds_left", NULL, &left), 2);
    assert_int_equal(recorded("no-shares", "share_of_peak", NULL, &share), 0);
    free(left);
    free(share);
}

/* What the last validation of a run printed. */
static void read_validation(FILE *said, double *loss, double *perplexity) {
    char line[4096];
    int n = 0;
    rewind(said);
    while (fgets(line, sizeof line, said)) {
        const char *at = strstr(line, "validation loss ");
        if (at)
            n = sscanf(at, "validation loss %lf, perplexity %lf", loss, perplexity);
    }
    assert_int_equal(n, 2);
}

static double mean(const double *x, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    return sum / (double)n;
}

/* The pairs of sentences are all from one document, which leaves nothing to tell them by: that part
 * of the loss stays at ln 2, while masked tokens are learned from their neighbours. The perplexity
 * is of the tokens alone. */
static void test_a_bert_learns_masked_tokens(void **state) {
    (void)state;
    ds_train_config config;
    FILE *said = NULL;
    const char *overrides[BERT_OVERRIDES + 2] = {"training.steps=400", "training.micro_batch=16"};
    bert_overrides(overrides + 2);
    configure("bert", overrides, BERT_OVERRIDES + 2, &config);
    ds_trainer *t = open_speaking("bert", &config, &said);
    if (ds_trainer_run(t) != DS_OK)
        fail_msg("%s", ds_error());
    ds_trainer_free(t);
    double *loss = NULL, rated = 0, perplexity = 0;
    const size_t n = losses("bert", &loss);
    assert_int_equal(n, 400);
    read_validation(said, &rated, &perplexity);
    fclose(said);
    assert_true(fabs(loss[0] - log(VOCAB + 4) - log(2)) < 0.3);
    assert_true(mean(loss + n - 20, 20) < log(VOCAB) + log(2) - 0.25); /* not by counting alone */
    assert_true(fabs(rated - log(perplexity) - log(2)) < 0.1);
    free(loss);
    ds_train_config_free(&config);
}

/* A step too small to change anything leaves the same model, which validation rates without
 * dropout. */
static void test_validation_drops_nothing(void **state) {
    (void)state;
    double *plain = NULL, *dropping = NULL;
    const char *const without[] = {"training.steps=1", "optimizer.learning_rate=1e-12",
                                   "model.dropout=0"};
    const char *const with[] = {"training.steps=1", "optimizer.learning_rate=1e-12",
                                "model.dropout=0.5"};
    run("without_dropout", without, 3);
    run("with_dropout", with, 3);
    assert_int_equal(recorded("without_dropout", "validation/loss", NULL, &plain), 1);
    assert_int_equal(recorded("with_dropout", "validation/loss", NULL, &dropping), 1);
    assert_true(fabs(plain[0] - dropping[0]) < 1e-6);
    free(plain);
    free(dropping);
}

static void test_resuming_is_bitwise(void **state) {
    (void)state;
    const char *const whole[] = {"checkpoint.interval=10"};
    const char *const half[] = {"training.steps=10", "schedule.decay_steps=20"};
    const char *const rest[] = {"schedule.decay_steps=20"};
    run("whole", whole, 1);
    run("halves", half, 2);
    assert_same_checkpoint("whole", "halves", 10);
    run("halves", rest, 1);
    assert_same_checkpoint("whole", "halves", 20);
}

/* The batch of each step of a run. */
static size_t batches(const char *folder, double **values) {
    return recorded(folder, "batch", NULL, values);
}

#define ADAPTIVE                                                                                   \
    "dynamic_batch.enabled=true", "dynamic_batch.min_batch=4", "dynamic_batch.max_batch=32",       \
        "dynamic_batch.ramp_up_steps=6", "schedule.decay_steps=20"

/* Forward and backward are all but all of such a step, so an aim below that shrinks the batch and
 * an aim above it lets it grow to the largest. */
static void test_the_batch_follows_utilisation(void **state) {
    (void)state;
    static const struct {
        const char *folder, *measure, *aim;
        double last;
    } runs[] = {
        {"grows", "dynamic_batch.measure=peak", "dynamic_batch.utilization_threshold=0.99", 32},
        {"stays", "dynamic_batch.measure=gradients", "dynamic_batch.utilization_threshold=0.01", 4},
        {"busy", "dynamic_batch.measure=busy", "dynamic_batch.utilization_threshold=0.01", 4},
    };
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        const char *const overrides[] = {ADAPTIVE, runs[i].measure, runs[i].aim};
        double *values = NULL;
        run(runs[i].folder, overrides, 7);
        const size_t n = batches(runs[i].folder, &values);
        assert_int_equal(n, 20);
        assert_true(values[0] == 4);
        if (values[n - 1] != runs[i].last)
            fail_msg("%s: the last batch has %g samples", runs[i].folder, values[n - 1]);
        free(values);
    }
}

/* What the machine did is no function of the configuration; but it is recorded, and a run that
 * replays it, even in two halves, ends with the same bits. */
static void test_a_dynamic_batch_resumes_bitwise(void **state) {
    (void)state;
    char replay[600], path[512];
    snprintf(replay, sizeof replay, "dynamic_batch.replay=%s", file_in("moving", "", path));
    const char *const aim = "dynamic_batch.utilization_threshold=0.95";
    const char *const whole[] = {ADAPTIVE, aim, "checkpoint.interval=10"};
    const char *const half[] = {ADAPTIVE, aim, replay, "training.steps=10"};
    const char *const rest[] = {ADAPTIVE, aim, replay};
    double *a = NULL, *b = NULL;
    run("moving", whole, 7);
    run("moving-halves", half, 8);
    assert_same_checkpoint("moving", "moving-halves", 10);
    run("moving-halves", rest, 7);
    assert_same_checkpoint("moving", "moving-halves", 20);
    assert_int_equal(batches("moving", &a), 20);
    assert_int_equal(batches("moving-halves", &b), 20);
    assert_memory_equal(a, b, 20 * sizeof *a);
    free(a);
    free(b);
}

/* Experts are one tensor here and several in the files, under the names that transformers reads. */
static void test_experts_are_saved_one_by_one(void **state) {
    (void)state;
    const char *const whole[] = {"model.architecture=moe", "model.n_experts=3",
                                 "checkpoint.interval=10", "checkpoint.async=true"};
    const char *const half[] = {"model.architecture=moe", "model.n_experts=3", "training.steps=10",
                                "schedule.decay_steps=20"};
    const char *const rest[] = {"model.architecture=moe", "model.n_experts=3",
                                "schedule.decay_steps=20"};
    run("moe", whole, 4);
    run("moe-halves", half, 4);
    run("moe-halves", rest, 3);
    assert_same_checkpoint("moe", "moe-halves", 20);

    ds_safetensors *file = NULL;
    char path[512];
    file_in("moe", "checkpoints/step-00000020/model.safetensors", path);
    assert_int_equal(ds_safetensors_open(path, &file), DS_OK);
    for (int layer = 0; layer < 2; layer++)
        for (int i = 0; i < 9; i++) {
            char name[96];
            const ds_safetensor *t = NULL;
            snprintf(name, sizeof name, "model.layers.%d.block_sparse_moe.experts.%d.w%d.weight",
                     layer, i / 3, 1 + i % 3);
            assert_int_equal(ds_safetensors_find(file, name, &t), DS_OK);
            assert_int_equal(t->rank, 2);
            assert_int_equal(t->dims[i % 3 == 1 ? 0 : 1], 32); /* w2 leads back to the width */
        }
    for (size_t i = 0; i < ds_safetensors_count(file); i++)
        assert_null(strchr(ds_safetensors_at(file, i)->name, '*'));
    ds_safetensors_close(file);
}

/* The last recorded learning rate of a run, and how many there are. */
static double last_rate(const char *folder, size_t *n) {
    double *rates = NULL;
    *n = recorded(folder, "learning_rate", NULL, &rates);
    const double last = *n > 0 ? rates[*n - 1] : 0;
    free(rates);
    return last;
}

/* How many steps fit is the machine's affair; what they are planned for is not. */
static void test_a_duration_becomes_steps(void **state) {
    (void)state;
    size_t steps = 0, again = 0, longer = 0, few = 0;
    const char *const half_second[] = {"training.duration=500ms", "training.steps=1M",
                                       "schedule.min_lr_ratio=0.01"};
    run("timed", half_second, 3);
    const double rate = last_rate("timed", &steps);
    assert_in_range(steps, 1, 100000);
    if (steps > 100) /* the schedule went its whole way */
        assert_true(rate < 0.02 * 1e-2);
    run("timed", half_second, 3); /* the number of steps is kept, however fast it goes now */
    last_rate("timed", &again);
    assert_int_equal(again, steps);
    char most[32];
    snprintf(most, sizeof most, "training.steps=%zu", steps + 2);
    const char *const more[] = {"training.duration=1h", most}; /* what is reached first ends it */
    run("timed", more, 2);
    last_rate("timed", &longer);
    assert_int_equal(longer, steps + 2);
    const char *const three[] = {"training.duration=1h", "training.steps=3"};
    run("timed-few", three, 2);
    last_rate("timed-few", &few);
    assert_int_equal(few, 3);
}

static void test_a_damaged_checkpoint_is_passed_over(void **state) {
    (void)state;
    const char *const overrides[] = {"checkpoint.interval=10"};
    char path[512], found[PATH_MAX];
    run("damaged", overrides, 1);
    FILE *f = fopen(file_in("damaged", "checkpoints/step-00000020/model.safetensors", path), "r+b");
    assert_non_null(f);
    fseek(f, -5, SEEK_END);
    fputc(0x5A, f); /* a flipped byte */
    fclose(f);
    assert_int_equal(ds_checkpoint_verify(file_in("damaged", "checkpoints/step-00000020", path)),
                     DS_CORRUPT);
    assert_non_null(strstr(ds_error(), "model.safetensors"));
    assert_int_equal(
        ds_checkpoint_find(file_in("damaged", "checkpoints", path), DS_VERIFY_ALL, found), DS_OK);
    assert_non_null(strstr(found, "step-00000010"));
    run("damaged", overrides, 1); /* from step 10 on again */
    run("intact", overrides, 1);
    assert_same_checkpoint("damaged", "intact", 20);
}

/* A checkpoint writer to this run's folder and, for it, a state of one parameter. */
typedef struct small_checkpoint {
    ds_backend *backend;
    ds_state *state;
    ds_checkpoint_writer *writer;
} small_checkpoint;

static small_checkpoint open_small_checkpoint(const char *folder) {
    small_checkpoint c = {0};
    char path[512];
    ds_graph *g = ds_graph_new();
    assert_int_equal(ds_backend_open("ref", (ds_backend_opts){0}, &c.backend), DS_OK);
    assert_int_equal(ds_state_new(c.backend, &c.state), DS_OK);
    ds_graph_param(g, "w", 1, (int64_t[]){1000}, DS_INIT_ONES);
    assert_int_equal(ds_state_declare(c.state, g), DS_OK);
    assert_int_equal(ds_state_init(c.state, 1), DS_OK);
    assert_int_equal(
        ds_checkpoint_writer_new(file_in(folder, "checkpoints", path), 0, true, &c.writer), DS_OK);
    ds_graph_free(g);
    return c;
}

static void close_small_checkpoint(small_checkpoint *c) {
    ds_checkpoint_writer_free(c->writer);
    ds_state_free(c->state);
    ds_backend_close(c->backend);
}

static void test_a_full_disk_keeps_the_former_checkpoint(void **state) {
    (void)state;
    char path[512], found[PATH_MAX];
    for (int kind = DS_FAULT_WRITE; kind < DS_FAULT_FAILURES; kind++) {
        ds_train_config config;
        const char *const overrides[] = {"checkpoint.interval=10", "checkpoint.resume=never"};
        configure("full", overrides, 2, &config);
        ds_trainer *t = open_trainer(&config);
        assert_int_equal(ds_trainer_run(t), DS_OK);
        ds_trainer_free(t);
        small_checkpoint c = open_small_checkpoint("full");
        const ds_checkpoint_file file = {"trainer.json", "{}"};
        ds_fault_arm((ds_fault)kind, 2);
        assert_int_equal(ds_checkpoint_write(c.writer, c.state, 30, &file, 1),
                         DS_OK); /* in the background */
        assert_int_equal(ds_checkpoint_wait(c.writer), DS_IO);
        ds_fault_arm((ds_fault)kind, 0);
        assert_int_equal(
            ds_checkpoint_find(file_in("full", "checkpoints", path), DS_VERIFY_ALL, found), DS_OK);
        assert_non_null(strstr(found, "step-00000020"));
        close_small_checkpoint(&c);
        ds_train_config_free(&config);
    }
}

/* Whichever write takes only part of its bytes, the rest follows: the sums are right. */
static void test_short_writes_leave_a_whole_checkpoint(void **state) {
    (void)state;
    char path[512], found[PATH_MAX], wanted[32];
    file_in("short", "checkpoints", path);
    assert_int_equal(ds_folder_make(path), DS_OK);
    small_checkpoint c = open_small_checkpoint("short");
    const ds_checkpoint_file file = {"trainer.json", "{}"};
    for (int n = 1; n <= 10; n++) {
        ds_fault_arm(DS_FAULT_SHORT_WRITE, n);
        assert_int_equal(ds_checkpoint_write(c.writer, c.state, n, &file, 1), DS_OK);
        assert_int_equal(ds_checkpoint_wait(c.writer), DS_OK);
        ds_fault_arm(DS_FAULT_SHORT_WRITE, 0);
        snprintf(wanted, sizeof wanted, "step-%08d", n);
        assert_int_equal(ds_checkpoint_find(path, DS_VERIFY_ALL, found), DS_OK);
        assert_non_null(strstr(found, wanted));
    }
    close_small_checkpoint(&c);
}

/* The final loss of a run with these overrides. */
static double final_loss(const char *folder, const char *const *overrides, size_t n) {
    double *loss = NULL;
    run(folder, overrides, n);
    const size_t count = losses(folder, &loss);
    const double last = loss[count - 1];
    free(loss);
    return last;
}

static void test_no_switch_changes_the_result(void **state) {
    (void)state;
    const double plain = final_loss("plain", NULL, 0);
    const struct {
        const char *folder;
        const char *overrides[3];
        size_t n;
        double tolerance;
    } runs[] = {
        {"accumulate",
         {"training.micro_batch=1", "training.gradient_accumulation_steps=4"},
         2,
         1e-4},
        {"selective", {"memory.recompute=selective"}, 1, 1e-5},
        {"recompute", {"memory.recompute=full"}, 1, 1e-5},
        {"offload", {"memory.offload=host"}, 1, 1e-5},
        {"file", {"memory.offload=file", "memory.offload_path=/tmp"}, 2, 1e-5},
        {"unfused", {"kernels.fuse=false"}, 1, 1e-4},
        {"reference", {"device=ref"}, 1, 1e-3},
        {"bf16", {"precision.mode=mixed", "precision.bf16=true"}, 2, 0.02},
        {"fp16", {"precision.mode=mixed", "precision.bf16=false", "precision.fp16=true"}, 3, 0.02},
    };
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        const double loss = final_loss(runs[i].folder, runs[i].overrides, runs[i].n);
        if (!(fabs(loss - plain) <= runs[i].tolerance))
            fail_msg("%s: loss %.6f, plain %.6f", runs[i].folder, loss, plain);
    }
}

/* Every weight of the last checkpoints, all of them f32. */
static void assert_near_weights(const char *a, const char *b, const char *checkpoint,
                                double tolerance) {
    ds_safetensors *files[2] = {0};
    const char *const folders[] = {a, b};
    for (int i = 0; i < 2; i++) {
        char name[128], path[512];
        snprintf(name, sizeof name, "checkpoints/%s/model.safetensors", checkpoint);
        assert_int_equal(ds_safetensors_open(file_in(folders[i], name, path), &files[i]), DS_OK);
    }
    for (size_t i = 0; i < ds_safetensors_count(files[0]); i++) {
        const ds_safetensor *x = ds_safetensors_at(files[0], i), *y = NULL;
        assert_int_equal(ds_safetensors_find(files[1], x->name, &y), DS_OK);
        const float *want = x->data, *got = y->data;
        for (size_t k = 0; k < x->size_bytes / sizeof *want; k++)
            if (!(fabs((double)want[k] - (double)got[k]) <= tolerance))
                fail_msg("%s[%zu]: %.8f and %.8f", x->name, k, (double)want[k], (double)got[k]);
    }
    for (int i = 0; i < 2; i++)
        ds_safetensors_close(files[i]);
}

/* BERT's loss has a part of each predicted token, of which samples have some more, some fewer, and
 * one of each sample: neither depends on which micro-batch a sample lies in. Plain descent, since
 * Adam makes much of the rounding of small gradients. */
static void test_a_bert_accumulates_what_it_computes_at_once(void **state) {
    (void)state;
    static const char *const cuts[][2] = {
        {"training.micro_batch=4", "training.gradient_accumulation_steps=1"},
        {"training.micro_batch=1", "training.gradient_accumulation_steps=4"}};
    static const char *const folders[] = {"bert-at-once", "bert-by-parts"};
    double *loss[2] = {0};
    for (int i = 0; i < 2; i++) {
        const char *overrides[BERT_OVERRIDES + 5] = {cuts[i][0], cuts[i][1], "training.steps=8",
                                                     "optimizer.name=sgd",
                                                     "optimizer.learning_rate=0.1"};
        bert_overrides(overrides + 5);
        run(folders[i], overrides, BERT_OVERRIDES + 5);
        assert_int_equal(losses(folders[i], &loss[i]), 8);
    }
    for (int i = 0; i < 8; i++)
        if (!(fabs(loss[0][i] - loss[1][i]) <= 1e-5))
            fail_msg("step %d: %.8f at once, %.8f by parts", i + 1, loss[0][i], loss[1][i]);
    assert_near_weights(folders[0], folders[1], "step-00000008", 1e-5);
    free(loss[0]);
    free(loss[1]);
}

static void test_a_bad_gradient_is_named(void **state) {
    (void)state;
    ds_train_config config;
    const char *const overrides[] = {"optimizer.learning_rate=1e30", "optimizer.grad_clip=0",
                                     "optimizer.name=sgd", "schedule.warmup_steps=0"};
    configure("explode", overrides, 4, &config);
    ds_trainer *t = open_trainer(&config);
    if (ds_trainer_run(t) != DS_NUMERIC)
        fail_msg("%s", ds_error());
    assert_non_null(strstr(ds_error(), "transformer."));
    ds_trainer_free(t);
    ds_train_config_free(&config);
}

static void test_wrong_data_is_refused_by_name(void **state) {
    (void)state;
    const struct {
        const char *override, *message;
    } cases[] = {
        {"model.vocab_size=40", "39"},
        {"data.train=/nowhere/corpus", "/nowhere/corpus"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_train_config config;
        ds_trainer *t = NULL;
        configure("refused", &cases[i].override, 1, &config);
        assert_int_not_equal(ds_trainer_new(&config, (ds_trainer_opts){.progress_fd = -1}, &t),
                             DS_OK);
        if (!strstr(ds_error(), cases[i].message))
            fail_msg("%s gives: %s", cases[i].override, ds_error());
        ds_train_config_free(&config);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_loss_falls),
        cmocka_unit_test(test_the_record_has_time_and_share),
        cmocka_unit_test(test_a_bert_learns_masked_tokens),
        cmocka_unit_test(test_validation_drops_nothing),
        cmocka_unit_test(test_resuming_is_bitwise),
        cmocka_unit_test(test_experts_are_saved_one_by_one),
        cmocka_unit_test(test_the_batch_follows_utilisation),
        cmocka_unit_test(test_a_dynamic_batch_resumes_bitwise),
        cmocka_unit_test(test_a_duration_becomes_steps),
        cmocka_unit_test(test_a_damaged_checkpoint_is_passed_over),
        cmocka_unit_test(test_a_full_disk_keeps_the_former_checkpoint),
        cmocka_unit_test(test_short_writes_leave_a_whole_checkpoint),
        cmocka_unit_test(test_no_switch_changes_the_result),
        cmocka_unit_test(test_a_bert_accumulates_what_it_computes_at_once),
        cmocka_unit_test(test_a_bad_gradient_is_named),
        cmocka_unit_test(test_wrong_data_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, make_corpus, remove_corpus);
}
