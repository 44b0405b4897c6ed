#include "serve/metrics.h"

#include <stddef.h>

/* Upper ends of the buckets in seconds: token times of small models on a fast machine up to first
 * tokens of long prompts on a slow one. */
static const double bounds[DS_HISTOGRAM_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                    0.25,  0.5,    1,     2.5,  5,     10,   30};

void ds_metrics_init(ds_metrics *m) {
    *m = (ds_metrics){0};
    pthread_mutex_init(&m->lock, NULL);
}

void ds_metrics_destroy(ds_metrics *m) {
    pthread_mutex_destroy(&m->lock);
}

void ds_metrics_count_code(ds_metrics *m, unsigned code) {
    pthread_mutex_lock(&m->lock);
    size_t i = 0;
    while (i + 1 < DS_MOST_CODES && m->codes[i].code != 0 && m->codes[i].code != code)
        i++;
    m->codes[i].code = code;
    m->codes[i].n++;
    pthread_mutex_unlock(&m->lock);
}

static void add_one(ds_metrics *m, int64_t *counter) {
    pthread_mutex_lock(&m->lock);
    ++*counter;
    pthread_mutex_unlock(&m->lock);
}

void ds_metrics_count_disconnect(ds_metrics *m) {
    add_one(m, &m->disconnects);
}

void ds_metrics_count_timeout(ds_metrics *m) {
    add_one(m, &m->timeouts);
}

static void observe(ds_metrics *m, ds_histogram *h, double seconds) {
    size_t i = 0;
    while (i < DS_HISTOGRAM_BUCKETS && seconds > bounds[i])
        i++;
    pthread_mutex_lock(&m->lock);
    h->counts[i]++;
    h->n++;
    h->sum += seconds;
    pthread_mutex_unlock(&m->lock);
}

void ds_metrics_first_token(ds_metrics *m, double seconds) {
    observe(m, &m->first_token, seconds);
}

void ds_metrics_later_token(ds_metrics *m, double seconds) {
    observe(m, &m->later_tokens, seconds);
}

/* ---- text ------------------------------------------------------------------------------------ */

static void write_head(ds_text *out, const char *name, const char *type, const char *help) {
    ds_text_printf(out, "# HELP deepseek_%s %s\n# TYPE deepseek_%s %s\n", name, help, name, type);
}

static void write_value(ds_text *out, const char *name, const char *type, const char *help,
                        int64_t value) {
    write_head(out, name, type, help);
    ds_text_printf(out, "deepseek_%s %lld\n", name, (long long)value);
}

static void write_ratio(ds_text *out, const char *name, const char *help, int64_t part,
                        int64_t whole) {
    write_head(out, name, "gauge", help);
    ds_text_printf(out, "deepseek_%s %.6g\n", name, whole > 0 ? (double)part / (double)whole : 0.0);
}

static void write_histogram(ds_text *out, const char *name, const char *help,
                            const ds_histogram *h) {
    write_head(out, name, "histogram", help);
    int64_t below = 0;
    for (size_t i = 0; i < DS_HISTOGRAM_BUCKETS; i++) {
        below += h->counts[i];
        ds_text_printf(out, "deepseek_%s_bucket{le=\"%g\"} %lld\n", name, bounds[i],
                       (long long)below);
    }
    ds_text_printf(out,
                   "deepseek_%s_bucket{le=\"+Inf\"} %lld\ndeepseek_%s_sum %.9g\n"
                   "deepseek_%s_count %lld\n",
                   name, (long long)h->n, name, h->sum, name, (long long)h->n);
}

/* One row a number of the executor. */
static const struct {
    const char *name, *type, *help;
    size_t offset; /* of an int64_t */
} rows[] = {
#define ROW(name, type, field, help)                                                               \
    { name, type, help, offsetof(ds_executor_stats, field) }
    ROW("requests_running", "gauge", n_running, "Requests at work."),
    ROW("requests_waiting", "gauge", n_waiting, "Requests in the queue."),
    ROW("requests_submitted_total", "counter", submitted, "Requests taken into the queue."),
    ROW("requests_finished_total", "counter", finished, "Requests answered to the end."),
    ROW("requests_cancelled_total", "counter", cancelled, "Requests given up."),
    ROW("requests_failed_total", "counter", failed, "Requests ended by an error."),
    ROW("prompt_tokens_total", "counter", prompt_tokens, "Tokens of prompts."),
    ROW("prefix_hit_tokens_total", "counter", cached_tokens,
        "Tokens of prompts whose keys and values were in the cache."),
    ROW("generated_tokens_total", "counter", generated_tokens, "Tokens of answers."),
    ROW("proposed_tokens_total", "counter", proposed_tokens, "Tokens guessed by speculation."),
    ROW("accepted_tokens_total", "counter", accepted_tokens, "Of those, that were right."),
    ROW("preemptions_total", "counter", preemptions, "Requests put back for want of cache."),
    ROW("steps_total", "counter", steps, "Steps of the model."),
    ROW("step_tokens", "gauge", tokens_in_last_step, "Tokens in the last step."),
    ROW("cache_blocks", "gauge", blocks, "Blocks of the key-value cache."),
    ROW("cache_blocks_in_use", "gauge", blocks_in_use, "Blocks of requests at work."),
    ROW("cache_blocks_cached", "gauge", blocks_cached, "Blocks kept for later requests."),
#undef ROW
};

void ds_metrics_write(ds_metrics *m, const ds_executor_stats *stats, ds_text *out) {
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        write_value(out, rows[i].name, rows[i].type, rows[i].help,
                    *(const int64_t *)((const char *)stats + rows[i].offset));
    write_ratio(out, "prefix_hit_ratio", "Part of the prompts' tokens that was in the cache.",
                stats->cached_tokens, stats->prompt_tokens);
    write_ratio(out, "accepted_ratio", "Part of the guessed tokens that was right.",
                stats->accepted_tokens, stats->proposed_tokens);
    pthread_mutex_lock(&m->lock);
    write_head(out, "http_requests_total", "counter", "HTTP answers by status code.");
    for (size_t i = 0; i < DS_MOST_CODES && m->codes[i].code != 0; i++)
        ds_text_printf(out, "deepseek_http_requests_total{code=\"%u\"} %lld\n", m->codes[i].code,
                       (long long)m->codes[i].n);
    write_value(out, "disconnects_total", "counter", "Clients gone before their answer ended.",
                m->disconnects);
    write_value(out, "timeouts_total", "counter", "Requests and clients ended by the time limit.",
                m->timeouts);
    write_histogram(out, "time_to_first_token_seconds", "From request to first token.",
                    &m->first_token);
    write_histogram(out, "time_per_output_token_seconds", "From each token to the next.",
                    &m->later_tokens);
    pthread_mutex_unlock(&m->lock);
}

bool ds_metrics_stalled(const ds_executor_stats *stats, double oldest_s, double now_s) {
    const double since_s = stats->last_step_s > oldest_s ? stats->last_step_s : oldest_s;
    return stats->n_running > 0 && now_s - since_s > DS_STALL_S;
}
