/* The training configuration: every key, every message with its exact place, the rules between
 * keys, and that docs/config.md and configs/ are what the table says. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <jansson.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/text.h"
#include "deepseek/config.h"

#define ROOT DS_TEST_DATA "/../.."

static ds_status parse(const char *yaml, ds_train_config *out) {
    return ds_train_config_parse("f.yaml", yaml, strlen(yaml), NULL, 0, out);
}

static void accept(const char *yaml, ds_train_config *out) {
    if (parse(yaml, out) != DS_OK)
        fail_msg("refused: %s", ds_error());
}

static void test_defaults(void **state) {
    (void)state;
    ds_train_config c;
    assert_int_equal(ds_train_config_default(&c), DS_OK);
    assert_string_equal(c.model.preset, "demo");
    assert_int_equal(c.model.n_layers, DS_TRAIN_AUTO);
    assert_true(c.precision.initial_loss_scale == 65536);
    assert_int_equal(c.precision.growth_interval, 1000);
    assert_int_equal(c.precision.hysteresis, 2);
    assert_true(c.precision.min_loss_scale == 1);
    assert_true(c.checkpoint.deadline_s == 30);
    ds_train_config_free(&c);
    accept("", &c);
    assert_int_equal(c.training.steps, 1000);
    assert_int_equal(c.training.global_batch, 8);
    assert_int_equal(ds_train_config_dtype(&c), DS_BF16);
    ds_train_config_free(&c);
}

/* The document's block, word for word, and what else is and is not accepted in its place. */
static void test_precision(void **state) {
    (void)state;
    ds_train_config c;
    accept("precision: {mode: mixed, fp16: false, bf16: true, loss_scale: dynamic}\n", &c);
    assert_int_equal(c.precision.mode, DS_TRAIN_MIXED);
    assert_false(c.precision.fp16);
    assert_true(c.precision.bf16);
    assert_true(c.precision.loss_scale == DS_TRAIN_AUTO);
    ds_train_config_free(&c);
    accept("precision:\n  mode: mixed\n  fp16: true\n  loss_scale: 128\n", &c);
    assert_int_equal(ds_train_config_dtype(&c), DS_F16);
    assert_true(c.precision.loss_scale == 128);
    assert_false(c.precision.bf16);
    ds_train_config_free(&c);
    accept("precision: {mode: full}", &c);
    assert_int_equal(ds_train_config_dtype(&c), DS_F32);
    ds_train_config_free(&c);
}

static const char combinations[] = "accepted: {mode: mixed, bf16: true}, {mode: mixed, fp16: true}"
                                   ", {mode: full} (fp32, neither fp16 nor bf16)";

/* Texts that must be refused, and the exact message. %s stands for `combinations`. */
static const struct {
    const char *yaml, *message;
} refused[] = {
    {"optimizer:\n  name: adamw\n  lerning_rate: 1e-3\n",
     "f.yaml:3:3: unknown key 'optimizer.lerning_rate'; did you mean 'learning_rate'?"},
    {"optimiser: {}\n", "f.yaml:1:1: unknown key 'optimiser'; did you mean 'optimizer'?"},
    {"learning_rate: 1\n",
     "f.yaml:1:1: unknown key 'learning_rate'; did you mean 'optimizer.learning_rate'?"},
    {"memory: {xyzzyx: 1}\n",
     "f.yaml:1:10: unknown key 'memory.xyzzyx'; accepted here: recompute, offload, offload_path"},
    {"model.preset: tiny\n",
     "f.yaml:1:1: 'model.preset' must be written as 'preset' below 'model:'"},
    {"zzz: 1\n",
     "f.yaml:1:1: unknown key 'zzz'; accepted here: device, threads, "
     "gradient_accumulation_steps, fused_attention, out_dir, model, data, precision, optimizer, "
     "schedule, training, dynamic_batch, memory, quantization, kernels, checkpoint, supervise"},
    {"optimizer:\n  gradient_clipp1ng: 1\n",
     "f.yaml:2:3: unknown key 'optimizer.gradient_clipp1ng'; accepted here: name, learning_rate, "
     "beta1, beta2, eps, weight_decay, momentum, grad_clip"},
    {"training:\n  steps: many\n",
     "f.yaml:2:10: training.steps: 'many'; expected a count such as 1000, 300k or 2.5B >= 1 and "
     "<= 1e+15 or auto"},
    {"training: {steps: 0}\n",
     "f.yaml:1:19: training.steps: out of range: '0'; expected a count such as 1000, 300k or 2.5B "
     ">= 1 and <= 1e+15 or auto"},
    {"training: {steps: 1.5}\n",
     "f.yaml:1:19: training.steps: not a whole number in range: '1.5'; expected a count such as "
     "1000, 300k or 2.5B >= 1 and <= 1e+15 or auto"},
    {"threads: 2.5\n", "f.yaml:1:10: threads: '2.5'; expected an integer >= 1 and <= 4096 or auto"},
    {"threads:\n",
     "f.yaml:1:9: threads: no value: ''; expected an integer >= 1 and <= 4096 or auto"},
    {"threads: [1]\n",
     "f.yaml:1:10: threads: a list; expected an integer >= 1 and <= 4096 or auto"},
    {"threads: {a: 1}\n",
     "f.yaml:1:10: threads: a mapping; expected an integer >= 1 and <= 4096 or auto"},
    {"optimizer: {beta1: 1}\n",
     "f.yaml:1:20: optimizer.beta1: out of range: '1'; expected a number >= 0 and < 1"},
    {"optimizer: {eps: 0}\n",
     "f.yaml:1:18: optimizer.eps: out of range: '0'; expected a number > 0"},
    {"optimizer: {eps: nan}\n", "f.yaml:1:18: optimizer.eps: 'nan'; expected a number > 0"},
    {"schedule: {name: cosin}\n", "f.yaml:1:18: schedule.name: 'cosin'; expected one of cosine, "
                                  "linear, constant, wsd; did you mean 'cosine'?"},
    {"precision:\n  fp16: maybe\n", "f.yaml:2:9: precision.fp16: 'maybe'; expected true or false"},
    {"precision: {loss_scale: 0}\n",
     "f.yaml:1:25: precision.loss_scale: out of range: '0'; expected a number > 0 or dynamic"},
    {"checkpoint: {deadline: 5parsec}\n",
     "f.yaml:1:24: checkpoint.deadline: '5parsec'; expected a time such as 500ms, 30s or 5min > 0 "
     "and <= 86400"},
    {"model: 5\n", "f.yaml:1:8: 'model' is a section; expected its keys below it"},
    {"- 1\n", "f.yaml:1:1: expected keys and values, such as 'model: {preset: tiny}'"},
    {"data:\n  train:\n    - {weight: 2}\n", "f.yaml:3:7: data.train: 'path' is missing"},
    {"data:\n  train:\n    - {path: a, wieght: 2}\n",
     "f.yaml:3:17: unknown key 'wieght'; did you mean 'weight'?"},
    {"data:\n  train: [[a]]\n", "f.yaml:2:11: data.train: expected a mapping or a list of them"},
    {"data:\n  train: [{path: a, weight: 0}]\n",
     "f.yaml:2:29: weight: out of range: '0'; expected a number > 0"},
    {"threads: 1\nthreads: 2\n", "f.yaml:2:1: duplicate key 'threads'; first given at line 1"},
    {"gradient_accumulation_steps: 2\ntraining: {gradient_accumulation_steps: 2}\n",
     "f.yaml:2:41: 'training.gradient_accumulation_steps' was given at line 1 already, by its "
     "other name"},
    {"include: other.yaml\n", "f.yaml:1:1: include: accepted in files only"},
    {"a: [b\n", "f.yaml:2:1: did not find expected ',' or ']', while parsing a flow sequence"},
    {"threads: *x\n", "f.yaml:1:10: unknown anchor 'x'"},
    {"data: &a {train: [*a]}\n", "f.yaml:1:19: alias inside its own anchor"},
    {"threads: !!python/object 1\n", NULL},
    {"threads: !mine 1\n", "f.yaml:1:10: custom tags are not accepted; write the plain value"},
    {"out_dir: \"a\\0b\"\n", "f.yaml:1:10: value contains a zero byte"},
    {"threads: 1\n---\nthreads: 2\n",
     "f.yaml:2:1: a second document; one file is one configuration"},
    {"? [a]\n: 1\n", "f.yaml:1:3: a key must be a word"},
    {"out_dir: ${DS_SURELY_NOT_SET}\n",
     "f.yaml:1:10: environment variable DS_SURELY_NOT_SET is not set; set it or write "
     "${DS_SURELY_NOT_SET:-default}"},
    {"out_dir: ${\n", "f.yaml:1:10: '${' must be ${NAME} or ${NAME:-default}; write '$$' for a "
                      "dollar sign"},
    {"threads: 1\nout_dir: \"\xff\"\n", "f.yaml:2:11: invalid leading UTF-8 octet"},
    /* rules between keys */
    {"precision: {fp16: true, bf16: true}\n",
     "f.yaml:1:19: precision.fp16: fp16 and bf16 are both true; %s"},
    {"precision: {mode: mixed, bf16: false}\n",
     "f.yaml:1:32: precision.bf16: mode is mixed, but fp16 and bf16 are both false; %s"},
    {"precision: {mode: full, bf16: true}\n",
     "f.yaml:1:31: precision.bf16: mode is full, but bf16 is true; %s"},
    {"precision: {mode: full, fp16: true}\n",
     "f.yaml:1:31: precision.fp16: mode is full, but fp16 is true; %s"},
    {"precision: {min_loss_scale: 70000}\n",
     "f.yaml:1:29: precision.min_loss_scale: 70000 is above initial_loss_scale, 65536"},
    {"model: {preset: gpt2-125m}\n",
     "f.yaml:1:17: model.preset: 'gpt2-125m' is neither a preset (tiny, demo, gpt2-124m, "
     "gpt2-1.5b, "
     "llama-1b, moe-tiny, bert-large, deepseek-67b, deepseek-175b) nor a folder with config.json; "
     "did you "
     "mean 'gpt2-124m'?"},
    {"model: {preset: null}\n",
     "f.yaml:1:17: model.preset: no value; expected a preset or a folder"},
    {"model: {hidden_size: 100, n_heads: 7}\n",
     "f.yaml:1:22: model.hidden_size: 100 is not a multiple of n_heads, 7"},
    {"model: {n_heads: 6, n_kv_heads: 4}\n",
     "f.yaml:1:18: model.n_heads: 6 is not a multiple of n_kv_heads, 4"},
    {"model: {architecture: moe, n_experts: 2, experts_per_token: 4}\n",
     "f.yaml:1:61: model.experts_per_token: 4 of only 2 experts"},
    {"model: {architecture: gpt2, n_experts: 8}\n",
     "f.yaml:1:40: model.n_experts: only architecture moe has experts"},
    {"model: {max_seq_len: 64}\ndata: {seq_len: 128}\n",
     "f.yaml:2:17: data.seq_len: 128 is more than model.max_seq_len, 64"},
    {"model: {architecture: gpt2}\ndata: {task: masked_lm}\n",
     "f.yaml:2:14: data.task: masked_lm needs an encoder; accepted with this model.architecture: "
     "causal_lm"},
    {"model: {preset: bert-large}\ndata: {task: causal_lm}\n",
     "f.yaml:2:14: data.task: causal_lm needs a decoder; accepted with bert: masked_lm"},
    {"data: {task: masked_lm, mask_documents: true}\nmodel: {architecture: bert}\n",
     "f.yaml:1:41: data.mask_documents: samples of masked_lm hold one pair of sentences: no "
     "documents are packed"},
    {"data: {validation: a, validation_fraction: 0.1}\n",
     "f.yaml:1:44: data.validation_fraction: data.validation is given too; leave one of them out"},
    {"training: {global_batch: 10, micro_batch: 4}\n",
     "f.yaml:1:26: training.global_batch: 10 is not a multiple of micro_batch 4 x 1 ranks; "
     "accepted: multiples of 4"},
    {"training: {global_batch: 10, gradient_accumulation_steps: 4}\n",
     "f.yaml:1:26: training.global_batch: 10 is not a multiple of gradient_accumulation_steps 4 x "
     "1 ranks; accepted: multiples of 4"},
    {"training: {global_batch: 9, micro_batch: 2, gradient_accumulation_steps: 4}\n",
     "f.yaml:1:26: training.global_batch: 9 contradicts micro_batch 2 x "
     "gradient_accumulation_steps 4 x 1 ranks = 8; leave one of the three out, or set it to auto"},
    {"training: {micro_batch: 3}\ndynamic_batch: {enabled: true}\n",
     "f.yaml:1:25: training.micro_batch: dynamic_batch.min_batch, 8, is not a multiple of "
     "micro_batch, 3"},
    {"dynamic_batch: {enabled: true, max_batch: 4}\n",
     "f.yaml:1:43: dynamic_batch.max_batch: 4 is less than min_batch, 8"},
    {"dynamic_batch: {enabled: true, utilization_threshold: 80}\n",
     "f.yaml:1:55: dynamic_batch.utilization_threshold: out of range: '80'; expected a number > 0 "
     "and < 1"},
    {"dynamic_batch: {enabled: true}\ntraining: {tokens: 1M}\n",
     "f.yaml:2:20: training.tokens: with dynamic_batch.enabled tokens do not tell the number of "
     "steps; give training.steps instead"},
    {"dynamic_batch: {enabled: true}\ntraining: {duration: 1h}\n",
     "f.yaml:2:22: training.duration: with dynamic_batch.enabled steps do not take the same time; "
     "give training.steps instead"},
    {"training: {duration: soon}\n",
     "f.yaml:1:22: training.duration: 'soon'; expected a time such as 500ms, 30s or "
     "5min > 0 and <= 1e+09 or auto"},
    {"training: {duration: 1h}\nschedule: {warmup_steps: 2, decay_steps: 10}\n",
     "f.yaml:2:42: schedule.decay_steps: with training.duration the number of steps is not known "
     "before; leave one of them out"},
    {"precision: {mode: mixed, bf16: true, loss_scale: 1024}\n",
     "f.yaml:1:50: precision.loss_scale: 1024 has no effect without fp16; accepted with bf16: "
     "dynamic"},
    {"training: {global_batch: 1T, micro_batch: 1}\n",
     "f.yaml:1:26: training.global_batch: 1000000000000 would need gradient_accumulation_steps "
     "1000000000000; accepted: up to 1000000"},
    {"schedule: {warmup_steps: 20, decay_steps: 10}\n",
     "f.yaml:1:43: schedule.decay_steps: 10 ends before warmup_steps, 20"},
    {"schedule: {name: wsd, warmup_steps: 20, decay_steps: 90}\ntraining: {steps: 100}\n",
     "f.yaml:1:54: schedule.decay_steps: 90 is more than the 80 steps after warm-up"},
    {"device: cuda\n", "f.yaml:1:9: device: 'cuda'; expected one of cpu, ref"},
    {"memory: {offload: file}\n",
     "f.yaml:1:19: memory.offload: file needs memory.offload_path, the folder to write to"},
    {"out_dir:\n", "f.yaml:1:9: checkpoint.directory: no value; expected a folder"},
    {"checkpoint: {resume: ''}\n",
     "f.yaml:1:22: checkpoint.resume: no value; expected auto, never or a checkpoint's folder"},
    {"supervise: {backoff: 2min}\n",
     "f.yaml:1:22: supervise.backoff: 120s is more than max_backoff, 60s"},
    {"optimizer: {momentum: 0.5, name: adamw}\n",
     "f.yaml:1:23: optimizer.momentum: no effect unless optimizer.name is sgd or muon"},
    {"data: {mask_probability: 0.3}\n",
     "f.yaml:1:26: data.mask_probability: no effect unless data.task is masked_lm"},
    {"dynamic_batch: {ramp_up_steps: 500}\n",
     "f.yaml:1:32: dynamic_batch.ramp_up_steps: no effect unless dynamic_batch.enabled is true"},
    {"memory: {offload: host, offload_path: /tmp}\n",
     "f.yaml:1:39: memory.offload_path: no effect unless memory.offload is file"},
    {"quantization: {dtype: int8}\n",
     "f.yaml:1:23: quantization.dtype: no effect unless quantization.mode is qat"},
};

static void test_refused(void **state) {
    (void)state;
    int failures = 0;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        ds_train_config c;
        char expected[1024];
        const char *message = refused[i].message ? refused[i].message : "";
        const char *hole = strstr(message, "%s");
        snprintf(expected, sizeof expected, "%.*s%s", hole ? (int)(hole - message) : 1000, message,
                 hole ? combinations : "");
        if (parse(refused[i].yaml, &c) == DS_OK) {
            if (!refused[i].message) {
                ds_train_config_free(&c); /* a standard tag: nothing to refuse */
                continue;
            }
            print_message("accepted: %s\n", refused[i].yaml);
            failures++;
        } else if (refused[i].message && strcmp(ds_error(), expected) != 0) {
            print_message("text    %sexpected %s\ngot      %s\n\n", refused[i].yaml, expected,
                          ds_error());
            failures++;
        }
    }
    assert_int_equal(failures, 0);
}

static const struct {
    const char *assignment, *message;
} refused_overrides[] = {
    {"optimizer.lerning_rate=1",
     "command line: unknown key 'optimizer.lerning_rate'; did you mean 'learning_rate'?"},
    {"optimzer.learning_rate=1", "command line: unknown key 'optimzer.learning_rate'; did you mean "
                                 "'optimizer.learning_rate'?"},
    {"lr", "command line: 'lr'; expected key.path=value"},
    {"=5", "command line: '=5'; expected key.path=value"},
    {"out_dir=runs/\xc4\xc4", "command line: 'out_dir' is set to bytes that are not UTF-8"},
    {"threads=x", "command line: threads: 'x'; expected an integer >= 1 and <= 4096 or auto"},
    {"threads=",
     "command line: threads: no value: ''; expected an integer >= 1 and <= 4096 or auto"},
    {"model=5", "command line: 'model' is a section; expected model.KEY=VALUE"},
    {"model={preset: nanana}",
     "command line: model.preset: 'nanana' is neither a preset (tiny, demo, gpt2-124m, gpt2-1.5b, "
     "llama-1b, moe-tiny, bert-large, deepseek-67b, deepseek-175b) nor a folder with config.json"},
    {"data.train=[a", "command line: data.train: did not find expected ',' or ']', while parsing "
                      "a flow sequence"},
    {"precision.bf16=false", "command line: precision.bf16: mode is mixed, but fp16 and bf16 are "
                             "both false; %s"},
};

static void test_refused_overrides(void **state) {
    (void)state;
    int failures = 0;
    for (size_t i = 0; i < sizeof refused_overrides / sizeof *refused_overrides; i++) {
        ds_train_config c;
        char expected[1024];
        const char *message = refused_overrides[i].message;
        const char *hole = strstr(message, "%s");
        snprintf(expected, sizeof expected, "%.*s%s", hole ? (int)(hole - message) : 1000, message,
                 hole ? combinations : "");
        assert_int_not_equal(ds_train_config_load(NULL, &refused_overrides[i].assignment, 1, &c),
                             DS_OK);
        if (strcmp(ds_error(), expected) != 0) {
            print_message("text     %s\nexpected %s\ngot      %s\n\n",
                          refused_overrides[i].assignment, expected, ds_error());
            failures++;
        }
    }
    assert_int_equal(failures, 0);
}

/* The same keys where they do something, and as a resolved configuration has them. */
static void test_keys_with_effect(void **state) {
    (void)state;
    static const char *const accepted[] = {
        "optimizer: {momentum: 0.5, name: muon}\n",
        "data: {mask_probability: 0.3, task: masked_lm}\n",
        "model: {architecture: bert}\ndata: {mask_probability: 0.3}\n",
        "dynamic_batch: {enabled: true, ramp_up_steps: 500}\n",
        "dynamic_batch: {enabled: false, ramp_up_steps: 500}\n",
        "memory: {offload: none, offload_path: /tmp}\n",
        "memory: {offload: file, offload_path: /tmp}\n",
        "quantization: {mode: qat, dtype: int8}\n",
        ""};
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        ds_train_config c;
        accept(accepted[i], &c);
        char *resolved = ds_train_config_dump_yaml(&c);
        ds_train_config_free(&c);
        assert_non_null(strstr(resolved, "ramp_up_steps"));
        accept(resolved, &c);
        ds_train_config_free(&c);
        free(resolved);
    }
}

static void test_overrides(void **state) {
    (void)state;
    const char *overrides[] = {"optimizer.learning_rate=1e-3",
                               "training.sample_prompt=In the beginning: God",
                               "data.train=[a, {path: b, weight: 3}]",
                               "precision={mode: mixed, fp16: true}",
                               "out_dir=out/${HOME}",
                               "gradient_accumulation_steps=4",
                               "training.gradient_accumulation_steps=5",
                               "training.tokens=2.5B",
                               "checkpoint.deadline=500ms",
                               "data.tokenizer=out/tokenizer.json",
                               "data.tokenizer=null",
                               "data.validation=null and void"};
    ds_train_config c;
    if (ds_train_config_load(NULL, overrides, sizeof overrides / sizeof *overrides, &c) != DS_OK)
        fail_msg("%s", ds_error());
    assert_true(c.optimizer.learning_rate == 1e-3);
    assert_string_equal(c.training.sample_prompt, "In the beginning: God");
    assert_int_equal(c.data.train.n, 2);
    assert_string_equal(c.data.train.items[0].path, "a");
    assert_true(c.data.train.items[0].weight == 1);
    assert_true(c.data.train.items[1].weight == 3);
    assert_int_equal(ds_train_config_dtype(&c), DS_F16);
    assert_string_equal(c.checkpoint.directory, "out/${HOME}"); /* the shell's business */
    assert_int_equal(c.training.gradient_accumulation_steps, 5);
    assert_int_equal(c.training.tokens, 2500000000);
    assert_true(c.checkpoint.deadline_s == 0.5);
    assert_null(c.data.tokenizer);
    assert_string_equal(c.data.validation, "null and void");
    ds_train_config_free(&c);
}

static void test_batch_rule(void **state) {
    (void)state;
    static const struct {
        const char *yaml;
        int ranks, micro, accumulation, global;
    } cases[] = {
        {"", 1, 8, 1, 8},
        {"", 4, 8, 1, 32},
        {"training: {global_batch: 32}", 1, 32, 1, 32},
        {"training: {global_batch: 32}", 4, 8, 1, 32},
        {"training: {micro_batch: 4}", 2, 4, 1, 8},
        {"gradient_accumulation_steps: 4", 1, 8, 4, 32},
        {"training: {global_batch: 32, micro_batch: 4}", 2, 4, 4, 32},
        {"training: {global_batch: 32, gradient_accumulation_steps: 2}", 2, 8, 2, 32},
        {"training: {micro_batch: 3, gradient_accumulation_steps: 2}", 2, 3, 2, 12},
        {"training: {global_batch: 12, micro_batch: 3, gradient_accumulation_steps: 2}", 2, 3, 2,
         12},
    };
    char path[] = "/tmp/ds-batch-XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_train_config c;
        assert_int_equal(ds_file_replace(path, cases[i].yaml, strlen(cases[i].yaml)), DS_OK);
        assert_int_equal(ds_train_config_load_ranks(path, NULL, 0, cases[i].ranks, &c), DS_OK);
        assert_int_equal(c.training.micro_batch, cases[i].micro);
        assert_int_equal(c.training.gradient_accumulation_steps, cases[i].accumulation);
        assert_int_equal(c.training.global_batch, cases[i].global);
        ds_train_config_free(&c);
    }
    unlink(path);
    ds_train_config c;
    assert_int_equal(ds_train_config_load_ranks(NULL, NULL, 0, 0, &c), DS_INVALID);
}

static void test_steps(void **state) {
    (void)state;
    ds_train_config c;
    accept("training: {tokens: 1000, global_batch: 2}", &c);
    assert_int_equal(c.training.steps, DS_TRAIN_AUTO);
    assert_int_equal(ds_train_config_steps(&c, 100), 5);
    assert_int_equal(ds_train_config_steps(&c, 99), 6);
    assert_int_equal(ds_train_config_steps(&c, 100000), 1);
    ds_train_config_free(&c);
    accept("training: {tokens: 1000, steps: 3, global_batch: 2}", &c);
    assert_int_equal(ds_train_config_steps(&c, 100), 3);
    ds_train_config_free(&c);
    accept("training: {steps: 1e6}", &c);
    assert_int_equal(ds_train_config_steps(&c, 100), 1000000);
    ds_train_config_free(&c);
}

/* What is dumped reads back to an equal configuration, whatever the texts hold. */
static void test_dump(void **state) {
    (void)state;
    ds_train_config a, b;
    accept(
        "data:\n"
        "  train: [plain, {path: \"quo\\\"te \\\\ $$HOME ${X:-y}\", weight: 0.1}, 'null', '12']\n"
        "  validation: \"\\x07 bell\\nline\\ttab \\u2028 \\ufeff ü 漢 \\U0001F600\"\n"
        "  task: masked_lm\n"
        "training: {sample_prompt: '${NOT} expanded: # {', steps: 12, seed: -5}\n"
        "optimizer: {learning_rate: 0.30000000000000004, eps: 1e-300}\n"
        "checkpoint: {deadline: 100ms, resume: 'true'}\n"
        "model: {tie_embeddings: false, dropout: 0.1}\n"
        "precision: {fp16: true}\n",
        &a);
    assert_string_equal(a.data.train.items[1].path, "quo\"te \\ $HOME y");
    assert_string_equal(a.training.sample_prompt, "${NOT} expanded: # {");
    assert_int_equal(a.model.tie_embeddings, 0);
    setlocale(LC_ALL, "de_DE.UTF-8"); /* a comma for the decimal point, where it is installed */
    char *yaml = ds_train_config_dump_yaml(&a);
    assert_non_null(yaml);
    if (parse(yaml, &b) != DS_OK)
        fail_msg("%s\n%s", ds_error(), yaml);
    setlocale(LC_ALL, "C");
    const char *difference = NULL;
    if (!ds_train_config_equal(&a, &b, &difference))
        fail_msg("%s differs\n%s", difference, yaml);
    b.data.train.items[1].weight = 0.2;
    assert_false(ds_train_config_equal(&a, &b, &difference));
    assert_string_equal(difference, "data.train");
    char *again = ds_train_config_dump_yaml(&a);
    assert_string_equal(yaml, again);
    free(again);
    free(yaml);
    ds_train_config_free(&a);
    ds_train_config_free(&b);
}

static void write_text(const char *folder, const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(ds_file_replace(path, text, strlen(text)), DS_OK);
}

static void expect_file(const char *folder, const char *name, const char *message) {
    char path[512], expected[1024];
    ds_train_config c;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    snprintf(expected, sizeof expected, message, folder, folder);
    assert_int_not_equal(ds_train_config_load(path, NULL, 0, &c), DS_OK);
    assert_string_equal(ds_error(), expected);
}

static void test_include(void **state) {
    (void)state;
    char folder[] = "/tmp/ds-include-XXXXXX";
    assert_non_null(mkdtemp(folder));
    char sub[64];
    snprintf(sub, sizeof sub, "%s/sub", folder);
    assert_int_equal(ds_folder_make(sub), DS_OK);
    write_text(folder, "base.yaml", "threads: 3\nmodel: {preset: tiny, n_layers: 2}\n");
    write_text(sub, "two.yaml", "include: ../base.yaml\nthreads: 4\n");
    write_text(folder, "top.yaml", "model: {n_layers: 5}\ninclude: [base.yaml, sub/two.yaml]\n");
    char path[64];
    snprintf(path, sizeof path, "%s/top.yaml", folder);
    ds_train_config c;
    if (ds_train_config_load(path, NULL, 0, &c) != DS_OK)
        fail_msg("%s", ds_error());
    assert_int_equal(c.threads, 4);        /* the later include wins */
    assert_int_equal(c.model.n_layers, 5); /* the file itself wins, wherever include stands */
    assert_string_equal(c.model.preset, "tiny");
    ds_train_config_free(&c);

    write_text(folder, "self.yaml", "include: self.yaml\n");
    expect_file(folder, "self.yaml", "%s/self.yaml:1:10: include: '%s/self.yaml' includes itself");
    write_text(folder, "a.yaml", "threads: 1\ninclude: b.yaml\n");
    write_text(folder, "b.yaml", "include: [sub/../a.yaml]\n");
    expect_file(folder, "a.yaml", "%s/b.yaml:1:11: include: '%s/sub/../a.yaml' includes itself");
    write_text(folder, "gone.yaml", "include: nowhere.yaml\n");
    expect_file(folder, "gone.yaml", "%s/gone.yaml:1:10: %s/nowhere.yaml: no such file");
    write_text(folder, "list.yaml", "include: {a: b}\n");
    expect_file(folder, "list.yaml",
                "%s/list.yaml:1:10: include: expected a file name or a list of them");
    write_text(folder, "bad.yaml", "include: worse.yaml\n");
    write_text(folder, "worse.yaml", "\nthreads: -1\n");
    expect_file(folder, "bad.yaml",
                "%s/worse.yaml:2:10: threads: out of range: '-1'; expected an "
                "integer >= 1 and <= 4096 or auto");
    expect_file(folder, "absent.yaml", "%s/absent.yaml: no such file");
    write_text(folder, "clash.yaml", "include: base.yaml\nmodel: {hidden_size: 7, n_heads: 2}\n");
    expect_file(folder, "clash.yaml",
                "%s/clash.yaml:2:22: model.hidden_size: 7 is not a multiple of n_heads, 2");
    assert_int_equal(ds_folder_remove(folder), DS_OK);
}

static void test_environment(void **state) {
    (void)state;
    ds_train_config c;
    setenv("DS_TEST_STEPS", "77", 1);
    setenv("DS_TEST_EMPTY", "", 1);
    accept("training: {steps: \"${DS_TEST_STEPS}\"}\n"
           "out_dir: \"a/${DS_TEST_STEPS}/${DS_TEST_EMPTY:-b}/$$x$y\"\n",
           &c);
    assert_int_equal(c.training.steps, 77);
    assert_string_equal(c.checkpoint.directory, "a/77/b/$x$y");
    ds_train_config_free(&c);
    setenv("DS_TEST_STEPS", "\xff", 1);
    assert_int_equal(parse("out_dir: ${DS_TEST_STEPS}", &c), DS_INVALID);
    assert_string_equal(ds_error(),
                        "f.yaml:1:10: environment variable DS_TEST_STEPS is too long or no UTF-8");
    unsetenv("DS_TEST_STEPS");
    unsetenv("DS_TEST_EMPTY");
}

/* Texts built to hurt: each is refused at once. */
static void test_hostile(void **state) {
    (void)state;
    ds_train_config c;
    ds_text text = {0};
    ds_text_puts(&text, "data:\n  train: &a0 [x]\n");
    for (int i = 1; i < 30; i++)
        ds_text_printf(&text, "k%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i, i, i - 1, i - 1,
                       i - 1, i - 1, i - 1, i - 1);
    assert_int_equal(parse(text.data, &c), DS_INVALID);
    assert_non_null(strstr(ds_error(), "more than 131072 values, aliases expanded"));
    ds_text_clear(&text);
    for (int i = 0; i < 40; i++)
        ds_text_puts(&text, "[");
    assert_int_equal(parse(text.data, &c), DS_INVALID);
    assert_string_equal(ds_error(), "f.yaml:1:33: nested deeper than 32 levels, aliases expanded");
    ds_text_clear(&text);
    for (int i = 0; i < 1100; i++)
        ds_text_printf(&text, "k%d: 1\n", i);
    assert_int_equal(parse(text.data, &c), DS_INVALID);
    assert_string_equal(ds_error(), "f.yaml:1025:1: more than 1024 keys in one mapping");
    ds_text_clear(&text);
    char *big = malloc((1 << 20) + 2);
    memset(big, ' ', (1 << 20) + 1);
    big[(1 << 20) + 1] = '\0';
    assert_int_equal(parse(big, &c), DS_INVALID);
    assert_string_equal(ds_error(), "f.yaml: 1048577 bytes, more than the 1048576 accepted");
    memcpy(big, "out_dir: ", 9);
    memset(big + 9, 'x', 70000);
    big[70009] = '\0';
    assert_int_equal(parse(big, &c), DS_INVALID);
    assert_string_equal(ds_error(), "f.yaml:1:10: value longer than 64 KiB");
    free(big);
}

/* Every allocation may fail; nothing leaks (under the sanitizers) and the status says so. */
static void test_out_of_memory(void **state) {
    (void)state;
    const char *yaml = "data: {train: [a, {path: b}], validation: c}\n"
                       "model: {preset: tiny}\ntraining: {sample_prompt: \"${HOME:-x}\"}\n";
    const char *overrides[] = {"out_dir=x", "data.train=[q, r]"};
    ds_status status = DS_OUT_OF_MEMORY;
    int n = 1;
    for (; status == DS_OUT_OF_MEMORY && n < 1000; n++) {
        ds_train_config c;
        ds_fault_arm(DS_FAULT_ALLOC, n);
        status = ds_train_config_parse("f.yaml", yaml, strlen(yaml), overrides, 2, &c);
        ds_fault_arm(DS_FAULT_ALLOC, 0);
        if (status == DS_OK)
            ds_train_config_free(&c);
    }
    assert_int_equal(status, DS_OK);
    assert_true(n > 5);
}

static void test_shipped_configs(void **state) {
    (void)state;
    DIR *folder = opendir(ROOT "/configs");
    assert_non_null(folder);
    int n = 0;
    for (struct dirent *e; (e = readdir(folder));) {
        char path[512];
        ds_train_config c;
        if (!strstr(e->d_name, ".yaml"))
            continue;
        snprintf(path, sizeof path, "%s/%s", ROOT "/configs", e->d_name);
        if (ds_train_config_load(path, NULL, 0, &c) != DS_OK)
            fail_msg("%s", ds_error());
        const size_t length = strlen(e->d_name) - strlen(".yaml");
        assert_int_equal(strncmp(c.model.preset, e->d_name, length), 0);
        assert_true(c.data.train.n > 0);
        assert_true(ds_train_config_steps(&c, c.data.seq_len) > c.schedule.warmup_steps);
        ds_train_config_free(&c);
        n++;
    }
    closedir(folder);
    assert_true(n >= 8);
}

/* docs/config.md is the table. To make it anew: DS_UPDATE=1 build/release/tests/test_train_config
 */
static void test_docs(void **state) {
    (void)state;
    char *made = ds_train_config_docs_markdown(), *committed = NULL;
    assert_non_null(made);
    if (getenv("DS_UPDATE"))
        assert_int_equal(ds_file_replace(ROOT "/docs/config.md", made, strlen(made)), DS_OK);
    assert_int_equal(ds_file_read(ROOT "/docs/config.md", 1 << 20, &committed, NULL), DS_OK);
    if (strcmp(made, committed) != 0)
        fail_msg("docs/config.md is not what the table says; DS_UPDATE=1 makes it anew");
    free(made);
    free(committed);
}

static void test_help_and_schema(void **state) {
    (void)state;
    char *help = ds_train_config_help(), *schema = ds_train_config_schema();
    assert_non_null(help);
    assert_non_null(strstr(help, "optimizer.learning_rate"));
    assert_non_null(strstr(help, "one of cosine, linear, constant, wsd; default cosine"));
    json_t *root = json_loads(schema, 0, NULL);
    assert_non_null(root);
    json_t *optimizer = json_object_get(json_object_get(root, "properties"), "optimizer");
    assert_false(json_is_true(json_object_get(optimizer, "additionalProperties")));
    json_t *beta = json_object_get(json_object_get(optimizer, "properties"), "beta1");
    assert_true(json_number_value(json_object_get(beta, "exclusiveMaximum")) == 1);
    json_decref(root);
    free(help);
    free(schema);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_precision),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_overrides),
        cmocka_unit_test(test_keys_with_effect),
        cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_batch_rule),
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_dump),
        cmocka_unit_test(test_include),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_shipped_configs),
        cmocka_unit_test(test_docs),
        cmocka_unit_test(test_help_and_schema),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
