/* The words of a timeout: which ranks had not made the call, what each was in instead, and who has
 * not been heard of. */
#include <stdlib.h>
#include <stdio.h>

#include "base/text.h"
#include "comm/fabric.h"

enum { MOST_NAMED = 8 };

static const ds_arrival *in_group(const ds_whereabouts *w, uint16_t group) {
    for (uint32_t i = 0; i < w->n && i < DS_ARRIVALS; i++)
        if (w->at[i].group == group)
            return &w->at[i];
    return NULL;
}

static bool has_arrived(const ds_work *work, const ds_whereabouts *w) {
    const ds_arrival *a = in_group(w, work->group);
    return a && a->sequence >= work->mine.sequence;
}

static void say_where(ds_text *text, int world_rank, bool known, const ds_whereabouts *w,
                      double age_s) {
    ds_text_printf(text, "rank %d (", world_rank);
    if (!known || w->n == 0)
        ds_text_puts(text, "it has made no call yet");
    else
        ds_text_printf(text, "its last call: %s%s #%u%s%s%s", w->at[0].group ? "in a group, " : "",
                       ds_call_kind_name(w->at[0].kind), w->at[0].sequence,
                       w->at[0].name[0] ? " \"" : "", w->at[0].name, w->at[0].name[0] ? "\"" : "");
    if (age_s > 1)
        ds_text_printf(text, "; not heard of for %.1f s", age_s);
    ds_text_puts(text, ")");
}

/* Names those of the ranks that have not arrived; how many there are. */
static int name_missing(ds_fabric *f, const ds_work *work, bool pair, ds_text *text) {
    int missing = 0;
    for (int rank = 0; rank < work->size; rank++) {
        if (rank == work->rank || (pair && rank != work->mine.peer))
            continue;
        ds_whereabouts w;
        double age = 0;
        const int world = work->route.world_rank[rank];
        const bool known = f->membership->ops->read(f->membership, world, &w, &age);
        if (!pair && known && has_arrived(work, &w))
            continue;
        if (missing++ >= MOST_NAMED)
            continue;
        ds_text_puts(text, missing > 1 ? ", " : "");
        say_where(text, world, known, &w, age);
    }
    if (missing > MOST_NAMED)
        ds_text_printf(text, " and %d more", missing - MOST_NAMED);
    return missing;
}

static void name_slow(const ds_work *work, ds_text *text) {
    int peers[MOST_NAMED];
    const int n = ds_schedule_waits_for(&work->schedule, peers, MOST_NAMED);
    ds_text_puts(text, "all ranks had arrived");
    for (int i = 0; i < n; i++)
        ds_text_printf(text, "%s%d", i == 0 ? "; data was awaited of or by rank " : ", ",
                       work->route.world_rank[peers[i]]);
}

void ds_diagnose(ds_fabric *f, const ds_work *work, double waited_s, char out[DS_ABORT_TEXT]) {
    char call[160];
    ds_text text = {0}, names = {0};
    const bool pair = work->mine.kind == DS_CALL_SEND || work->mine.kind == DS_CALL_RECV;
    ds_text_printf(&text, "%s timed out on rank %d after %.3g s: ",
                   ds_call_describe(&work->mine, call, sizeof call),
                   work->route.world_rank[work->rank], waited_s);
    const int missing = name_missing(f, work, pair, &names);
    if (missing > 0)
        ds_text_printf(&text, "not arrived: %s", names.data ? names.data : "");
    else
        name_slow(work, &text);
    snprintf(out, DS_ABORT_TEXT, "%s", text.data ? text.data : "a call timed out");
    ds_text_clear(&text);
    ds_text_clear(&names);
}
