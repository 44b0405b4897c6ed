#include "infer/grammar_store.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"

/* ---- tables ---------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t x) {
    h = (h ^ x) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 29);
}

static uint64_t frame_hash(ds_grammar_frame f) {
    return mix(mix(1, (uint32_t)f.node), (uint32_t)f.below);
}

static uint64_t state_hash(const ds_grammar_config *configs, size_t n, bool complete) {
    uint64_t h = complete;
    for (size_t i = 0; i < n; i++)
        h = mix(h, (uint64_t)(uint32_t)configs[i].node << 32 | (uint32_t)configs[i].frame);
    return h;
}

static int32_t *slot_at(int32_t *slots, size_t n_slots, uint64_t hash, size_t *at) {
    *at = (*at == SIZE_MAX ? (size_t)hash : *at + 1) & (n_slots - 1);
    return &slots[*at];
}

static uint64_t hash_of(const ds_grammar_store *s, bool of_frames, size_t i) {
    return of_frames ? frame_hash(s->frames[i])
                     : state_hash(s->states[i].configs, s->states[i].n, s->states[i].complete);
}

/* Room for one more, at most half full. */
static bool widen(ds_grammar_store *s, bool of_frames) {
    int32_t **slots = of_frames ? &s->frame_slots : &s->state_slots;
    size_t *n_slots = of_frames ? &s->frame_slots_n : &s->state_slots_n;
    const size_t n = of_frames ? s->n_frames : s->n_states;
    if (*n_slots > 2 * (n + 1))
        return true;
    const size_t wider = *n_slots ? *n_slots * 2 : 64;
    int32_t *fresh = ds_malloc(wider * sizeof *fresh);
    if (!fresh)
        return false;
    memset(fresh, -1, wider * sizeof *fresh);
    for (size_t i = 0; i < n; i++) {
        size_t at = SIZE_MAX;
        int32_t *slot = slot_at(fresh, wider, hash_of(s, of_frames, i), &at);
        while (*slot >= 0)
            slot = slot_at(fresh, wider, 0, &at);
        *slot = (int32_t)i;
    }
    s->bytes += (wider - *n_slots) * sizeof *fresh;
    free(*slots);
    *slots = fresh;
    *n_slots = wider;
    return true;
}

/* −1 when out of memory. */
static int32_t push_frame(ds_grammar_store *s, ds_grammar_frame f) {
    if (!widen(s, true))
        return -1;
    size_t at = SIZE_MAX;
    int32_t *slot = slot_at(s->frame_slots, s->frame_slots_n, frame_hash(f), &at);
    for (; *slot >= 0; slot = slot_at(s->frame_slots, s->frame_slots_n, 0, &at))
        if (s->frames[*slot].node == f.node && s->frames[*slot].below == f.below)
            return *slot;
    ds_grammar_frame *grown = ds_grow(s->frames, &s->frame_capacity, s->n_frames + 1, sizeof f);
    if (!grown)
        return -1;
    s->frames = grown;
    s->frames[s->n_frames] = f;
    s->bytes += sizeof f;
    return *slot = (int32_t)s->n_frames++;
}

/* ---- all places that are reached without reading --------------------------------------------- */

enum { MOST_VISITED = 4 * DS_MOST_CONFIGS, VISITED_SLOTS = 4 * MOST_VISITED };

/* Kept from one closure to the next. A slot is taken when its entry in `visited` says so too, so
 * that forgetting all of them is setting n_visited to 0 (Briggs and Torczon 1993). */
typedef struct ds_grammar_closure {
    ds_grammar_config todo[MOST_VISITED], visited[MOST_VISITED], leaves[DS_MOST_CONFIGS];
    size_t slot_of[MOST_VISITED];
    uint32_t slots[VISITED_SLOTS]; /* into visited */
    size_t n_todo, n_leaves, n_visited;
    bool complete, failed;
} closure;

static closure *begin_closure(ds_grammar_store *s) {
    if (!s->closure)
        s->closure = ds_calloc(1, sizeof *s->closure);
    closure *c = s->closure;
    if (!c)
        return NULL;
    c->n_todo = c->n_leaves = c->n_visited = 0;
    c->complete = c->failed = false;
    return c;
}

static void reach(const ds_grammar_store *s, closure *c, int32_t node, int32_t frame) {
    if (c->failed || !s->rules->nodes[node].live || c->n_visited == MOST_VISITED)
        return;
    size_t at = frame_hash((ds_grammar_frame){node, frame}) & (VISITED_SLOTS - 1);
    for (;; at = (at + 1) & (VISITED_SLOTS - 1)) {
        const uint32_t i = c->slots[at];
        if (i >= c->n_visited || c->slot_of[i] != at)
            break;
        if (c->visited[i].node == node && c->visited[i].frame == frame)
            return;
    }
    c->slots[at] = (uint32_t)c->n_visited;
    c->slot_of[c->n_visited] = at;
    c->visited[c->n_visited++] = c->todo[c->n_todo++] = (ds_grammar_config){node, frame};
}

static void expand(ds_grammar_store *s, closure *c, ds_grammar_config g) {
    const ds_rule_node *n = &s->rules->nodes[g.node];
    int32_t frame = g.frame;
    switch (n->kind) {
    case DS_RULE_BYTES:
        if (c->n_leaves < DS_MOST_CONFIGS)
            c->leaves[c->n_leaves++] = g;
        break;
    case DS_RULE_FORK:
        reach(s, c, n->other, frame);
        reach(s, c, n->next, frame);
        break;
    case DS_RULE_CALL:
        /* what a rule calls last returns where the rule itself would */
        if (n->next != DS_RULES_END)
            frame = push_frame(s, (ds_grammar_frame){n->next, frame});
        c->failed = c->failed || frame < 0;
        reach(s, c, s->rules->starts[n->other], frame);
        break;
    case DS_RULE_END:
        c->complete = c->complete || frame == 0;
        if (frame != 0)
            reach(s, c, s->frames[frame].node, s->frames[frame].below);
        break;
    }
}

static void close_over(ds_grammar_store *s, closure *c, int32_t node, int32_t frame) {
    reach(s, c, node, frame);
    while (c->n_todo > 0 && !c->failed)
        expand(s, c, c->todo[--c->n_todo]);
}

/* ---- states ---------------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b) {
    const ds_grammar_config *x = a, *y = b;
    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    return x->frame < y->frame ? -1 : x->frame > y->frame;
}

static int32_t add_state(ds_grammar_store *s, const ds_grammar_config *configs, size_t n,
                         bool complete) {
    ds_grammar_state *grown =
        ds_grow(s->states, &s->state_capacity, s->n_states + 1, sizeof *grown);
    if (!grown)
        return DS_STATE_FAILED;
    s->states = grown;
    ds_grammar_state fresh = {.n = n, .complete = complete};
    fresh.configs = ds_malloc((n + 1) * sizeof *configs);
    fresh.next = ds_malloc(s->n_classes * sizeof *fresh.next);
    if (!fresh.configs || !fresh.next) {
        free(fresh.configs);
        free(fresh.next);
        return DS_STATE_FAILED;
    }
    if (n > 0)
        memcpy(fresh.configs, configs, n * sizeof *configs);
    for (size_t i = 0; i < s->n_classes; i++)
        fresh.next[i] = DS_STATE_UNKNOWN;
    s->bytes += sizeof fresh + n * sizeof *configs + s->n_classes * sizeof *fresh.next;
    s->states[s->n_states] = fresh;
    return (int32_t)s->n_states++;
}

/* configs are sorted here. */
static int32_t find_state(ds_grammar_store *s, ds_grammar_config *configs, size_t n,
                          bool complete) {
    if (n == 0 && !complete)
        return DS_STATE_DEAD;
    if (!widen(s, false))
        return DS_STATE_FAILED;
    qsort(configs, n, sizeof *configs, by_place);
    size_t at = SIZE_MAX;
    int32_t *slot =
        slot_at(s->state_slots, s->state_slots_n, state_hash(configs, n, complete), &at);
    for (; *slot >= 0; slot = slot_at(s->state_slots, s->state_slots_n, 0, &at)) {
        const ds_grammar_state *t = &s->states[*slot];
        if (t->n == n && t->complete == complete &&
            memcmp(t->configs, configs, n * sizeof *configs) == 0)
            return *slot;
    }
    const int32_t fresh = add_state(s, configs, n, complete);
    if (fresh >= 0)
        *slot = fresh;
    return fresh;
}

static int32_t state_of(ds_grammar_store *s, closure *c) {
    if (c->failed)
        return DS_STATE_FAILED;
    return find_state(s, c->leaves, c->n_leaves, c->complete);
}

int32_t ds_grammar_store_begin(ds_grammar_store *s) {
    closure *c = begin_closure(s);
    if (!c)
        return DS_STATE_FAILED;
    close_over(s, c, s->rules->starts[0], 0);
    return state_of(s, c);
}

static int32_t step_anew(ds_grammar_store *s, int32_t state, unsigned char byte) {
    const ds_grammar_state *from = &s->states[state];
    bool any = false;
    for (size_t i = 0; i < from->n && !any; i++) {
        const ds_rule_node *n = &s->rules->nodes[from->configs[i].node];
        any = n->low <= byte && byte <= n->high;
    }
    if (!any || !s->spells[byte])
        return DS_STATE_DEAD;
    closure *c = begin_closure(s);
    if (!c)
        return DS_STATE_FAILED;
    for (size_t i = 0; i < from->n && !c->failed; i++) {
        const ds_grammar_config g = from->configs[i];
        const ds_rule_node *n = &s->rules->nodes[g.node];
        if (n->low <= byte && byte <= n->high)
            close_over(s, c, n->next, g.frame);
    }
    return state_of(s, c);
}

int32_t ds_grammar_store_step(ds_grammar_store *s, int32_t state, unsigned char byte) {
    const size_t class = s->class_of[byte];
    int32_t next = s->states[state].next[class];
    if (next != DS_STATE_UNKNOWN)
        return next;
    next = step_anew(s, state, byte);
    if (next != DS_STATE_FAILED)
        s->states[state].next[class] = next; /* the array may have moved */
    return next;
}

/* ---- copying --------------------------------------------------------------------------------- */

static int32_t copy_frame(ds_grammar_store *s, const ds_grammar_store *from, int32_t frame) {
    size_t depth = 0;
    for (int32_t f = frame; f != 0; f = from->frames[f].below)
        depth++;
    int32_t *nodes = ds_malloc((depth + 1) * sizeof *nodes), copy = nodes ? 0 : -1;
    size_t i = depth;
    for (int32_t f = frame; nodes && f != 0; f = from->frames[f].below)
        nodes[--i] = from->frames[f].node;
    for (i = 0; i < depth && copy >= 0; i++)
        copy = push_frame(s, (ds_grammar_frame){nodes[i], copy});
    free(nodes);
    return copy;
}

int32_t ds_grammar_store_copy(ds_grammar_store *s, const ds_grammar_store *from, int32_t state) {
    const ds_grammar_state *t = &from->states[state];
    ds_grammar_config *configs = ds_malloc((t->n + 1) * sizeof *configs);
    bool whole = configs != NULL;
    for (size_t i = 0; i < t->n && whole; i++) {
        configs[i] =
            (ds_grammar_config){t->configs[i].node, copy_frame(s, from, t->configs[i].frame)};
        whole = configs[i].frame >= 0;
    }
    const int32_t copy =
        whole ? find_state(s, configs, t->n, t->complete) : (int32_t)DS_STATE_FAILED;
    free(configs);
    return copy;
}

/* ---- beginning and ending -------------------------------------------------------------------- */

/* Bytes that no range tells apart are one class. */
static void classify(ds_grammar_store *s) {
    bool begins[257] = {0};
    for (size_t i = 0; i < s->rules->n_nodes; i++) {
        const ds_rule_node *n = &s->rules->nodes[i];
        if (n->kind == DS_RULE_BYTES)
            begins[n->low] = begins[n->high + 1] = true;
    }
    unsigned char class = 0;
    for (int byte = 0; byte < 256; byte++) {
        const bool apart = byte > 0 && (begins[byte] || s->spells[byte] != s->spells[byte - 1]);
        class = (unsigned char)(class + apart);
        s->class_of[byte] = class;
    }
    s->n_classes = (size_t) class + 1;
}

ds_status ds_grammar_store_init(ds_grammar_store *s, const ds_rules *rules,
                                const bool spells[256]) {
    *s = (ds_grammar_store){.rules = rules};
    memcpy(s->spells, spells, sizeof s->spells);
    classify(s);
    ds_grammar_frame *grown = ds_grow(NULL, &s->frame_capacity, 1, sizeof *grown);
    if (!grown)
        return DS_OUT_OF_MEMORY;
    s->frames = grown;
    s->frames[s->n_frames++] = (ds_grammar_frame){DS_RULES_NOTHING, 0};
    return DS_OK;
}

void ds_grammar_store_clear(ds_grammar_store *s) {
    for (size_t i = 0; i < s->n_states; i++) {
        free(s->states[i].configs);
        free(s->states[i].next);
        free(s->states[i].mask);
    }
    free(s->states);
    free(s->frames);
    free(s->frame_slots);
    free(s->state_slots);
    free(s->closure);
    *s = (ds_grammar_store){0};
}
