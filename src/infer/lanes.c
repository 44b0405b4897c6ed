#include "infer/lanes.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/alloc.h"
#include "base/error.h"

typedef struct lane {
    ds_lanes *all;
    pthread_t thread;
    ds_errand *first, **end; /* of the errands left */
    int64_t n_left;
} lane;

struct ds_lanes {
    pthread_mutex_t lock; /* guards all that follows but for n */
    pthread_cond_t work, done;
    bool stopping;
    void (*share)(int64_t i, void *context);
    void *context;
    int64_t next_row, n_rows, rows_at_work;
    int n;
    lane lanes[];
};

/* Under the lock, which is open while the row is done. */
static void take_row(ds_lanes *l) {
    const int64_t i = l->next_row++;
    l->rows_at_work++;
    pthread_mutex_unlock(&l->lock);
    l->share(i, l->context);
    pthread_mutex_lock(&l->lock);
    if (--l->rows_at_work == 0 && l->next_row == l->n_rows)
        pthread_cond_broadcast(&l->done);
}

static void run_errand(lane *mine) {
    ds_lanes *l = mine->all;
    ds_errand *e = mine->first;
    mine->first = e->next;
    if (!mine->first)
        mine->end = &mine->first;
    pthread_mutex_unlock(&l->lock);
    e->run(e);
    pthread_mutex_lock(&l->lock);
    mine->n_left--;
    pthread_cond_broadcast(&l->done);
}

static void *work(void *context) {
    lane *mine = context;
    ds_lanes *l = mine->all;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        if (l->next_row < l->n_rows)
            take_row(l);
        else if (mine->first)
            run_errand(mine);
        else if (l->stopping)
            break;
        else
            pthread_cond_wait(&l->work, &l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

ds_status ds_lanes_new(int n_lanes, ds_lanes **out) {
    ds_lanes *l = ds_calloc(1, sizeof *l + (size_t)n_lanes * sizeof *l->lanes);
    if (!l)
        return DS_OUT_OF_MEMORY;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->done, NULL);
    for (; l->n < n_lanes; l->n++) {
        lane *mine = &l->lanes[l->n];
        mine->all = l;
        mine->end = &mine->first;
        if (pthread_create(&mine->thread, NULL, work, mine) != 0) {
            ds_lanes_free(l);
            return ds_fail(DS_OUT_OF_MEMORY, "no thread could be started");
        }
    }
    *out = l;
    return DS_OK;
}

void ds_lanes_free(ds_lanes *l) {
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stopping = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->n; i++)
        pthread_join(l->lanes[i].thread, NULL);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->done);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

void ds_lanes_share(ds_lanes *l, int64_t n, void (*share)(int64_t i, void *context),
                    void *context) {
    pthread_mutex_lock(&l->lock);
    l->share = share;
    l->context = context;
    l->next_row = 0;
    l->n_rows = n;
    pthread_cond_broadcast(&l->work);
    while (l->next_row < l->n_rows)
        take_row(l);
    while (l->rows_at_work > 0)
        pthread_cond_wait(&l->done, &l->lock);
    pthread_mutex_unlock(&l->lock);
}

void ds_lanes_leave(ds_lanes *l, uint64_t key, ds_errand *errand) {
    lane *its = &l->lanes[key % (uint64_t)l->n];
    errand->next = NULL;
    pthread_mutex_lock(&l->lock);
    *its->end = errand;
    its->end = &errand->next;
    its->n_left++;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
}

void ds_lanes_await(ds_lanes *l, int64_t most) {
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < l->n; i++)
        while (l->lanes[i].n_left >= most)
            pthread_cond_wait(&l->done, &l->lock);
    pthread_mutex_unlock(&l->lock);
}
