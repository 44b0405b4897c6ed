/* A conversation in the terminal:
 *     chat MODEL [SYSTEM_PROMPT]
 * Each line is a message; the answer appears word by word. An empty line or Ctrl-D ends it. What
 * was said before lies in the executor's cache, so each turn computes its own tokens only. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deepseek/chat.h"

enum { MOST_MESSAGES = 64 };

typedef struct turn {
    ds_detokenizer *words;
    char *text; /* of the answer so far */
    size_t length, capacity;
    bool ended;
    pthread_mutex_t lock;
    pthread_cond_t end;
} turn;

static void keep(turn *t, const char *text, size_t length) {
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    if (t->length + length + 1 > t->capacity) {
        t->capacity = 2 * (t->length + length + 1);
        t->text = realloc(t->text, t->capacity);
        if (!t->text) {
            fputs("out of memory\n", stderr);
            exit(1);
        }
    }
    memcpy(t->text + t->length, text, length);
    t->text[t->length += length] = '\0';
}

/* Called from the executor's thread, once for each token and once at the end. */
static void on_event(const ds_event *event, void *context) {
    turn *t = context;
    const char *text = "";
    size_t length = 0;
    if (event->finish == DS_FINISH_NONE)
        (void)ds_detokenizer_push(t->words, event->token, &text, &length);
    else
        (void)ds_detokenizer_finish(t->words, &text, &length);
    keep(t, text, length);
    if (event->finish == DS_FINISH_NONE)
        return;
    if (event->error)
        fprintf(stderr, "%s\n", event->error);
    pthread_mutex_lock(&t->lock);
    t->ended = true;
    pthread_cond_signal(&t->end);
    pthread_mutex_unlock(&t->lock);
}

/* Goes on from the messages; the answer's text is the caller's to free(), NULL for a failure. */
static char *answer(ds_async_executor *executor, const ds_model *model, const ds_chat_format *chat,
                    const ds_chat_turn *messages, size_t n_messages) {
    int32_t *prompt = NULL;
    size_t n = 0;
    uint64_t id = 0;
    turn t = {.words = ds_detokenizer_new(ds_model_get_tokenizer(model))};
    pthread_mutex_init(&t.lock, NULL);
    pthread_cond_init(&t.end, NULL);
    ds_status status = ds_chat_format_encode(chat, messages, n_messages, &prompt, &n);
    ds_request request = {.prompt = prompt,
                          .n_prompt = (int64_t)n,
                          .sampling = {.temperature = 0.7f, .top_p = 0.95f, .seed = n},
                          .on_event = on_event,
                          .context = &t};
    request.stop_tokens = ds_model_end_tokens(model, &request.n_stop_tokens);
    if (status == DS_OK)
        status = ds_async_executor_submit(executor, &request, &id);
    pthread_mutex_lock(&t.lock);
    while (status == DS_OK && !t.ended)
        pthread_cond_wait(&t.end, &t.lock);
    pthread_mutex_unlock(&t.lock);
    ds_detokenizer_free(t.words);
    pthread_cond_destroy(&t.end);
    pthread_mutex_destroy(&t.lock);
    free(prompt);
    if (status != DS_OK)
        fprintf(stderr, "%s\n", ds_error());
    return t.text;
}

/* Turns until the input ends; every other message of `said` is an answer. */
static void converse(ds_async_executor *executor, const ds_model *model, const ds_chat_format *chat,
                     const char *system) {
    ds_chat_turn said[MOST_MESSAGES];
    char *owned[MOST_MESSAGES] = {NULL};
    size_t n = 0;
    if (system)
        said[n++] = (ds_chat_turn){"system", system};
    while (n + 2 <= MOST_MESSAGES) {
        printf("\n> ");
        fflush(stdout);
        if (getline(&owned[n], &(size_t){0}, stdin) <= 1)
            break;
        owned[n][strcspn(owned[n], "\n")] = '\0';
        said[n] = (ds_chat_turn){"user", owned[n]};
        owned[n + 1] = answer(executor, model, chat, said, n + 1);
        if (!owned[n + 1])
            break;
        said[n + 1] = (ds_chat_turn){"assistant", owned[n + 1]};
        n += 2;
    }
    for (size_t i = 0; i < MOST_MESSAGES; i++)
        free(owned[i]);
    puts("");
}

int main(int argc, char **argv) {
    ds_model *model = NULL;
    ds_chat_format *chat = NULL;
    ds_async_executor *executor = NULL;
    if (argc < 2) {
        fputs("usage: chat MODEL [SYSTEM_PROMPT]\n", stderr);
        return 2;
    }
    const ds_async_executor_opts opts = {.max_batch_size = 1};
    const bool ready = ds_model_from_pretrained(argv[1], (ds_model_opts){0}, &model) == DS_OK &&
                       ds_chat_format_new(model, &chat) == DS_OK &&
                       ds_async_executor_new(model, opts, &executor) == DS_OK;
    if (ready)
        converse(executor, model, chat, argc > 2 ? argv[2] : NULL);
    else
        fprintf(stderr, "%s\n", ds_error());
    ds_async_executor_free(executor);
    ds_chat_format_free(chat);
    ds_model_free(model);
    return ready ? 0 : 1;
}
