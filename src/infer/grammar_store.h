/* What a grammar has come across: stacks and states, each kept once and known by its number.
 *
 * A configuration is a place in the rules (a node that reads a byte) and a stack of places to
 * return to; a state is a set of configurations, all that a text may be at. Stacks share their
 * lower parts: a frame is a place and the frame below. Numbers grow as texts go where none was
 * before. Transitions are kept by class of bytes, masks of tokens by state. */
#ifndef DS_INFER_GRAMMAR_STORE_H
#define DS_INFER_GRAMMAR_STORE_H

#include "infer/grammar_rules.h"

enum {
    DS_STATE_DEAD = -1,
    DS_STATE_FAILED = -2,  /* out of memory; the thread's message is set */
    DS_STATE_UNKNOWN = -3, /* a transition not taken yet */
    DS_MOST_CONFIGS = 2048 /* of a state; more are dropped, which only forbids some texts */
};

typedef struct ds_grammar_config {
    int32_t node, frame; /* frame 0: the empty stack */
} ds_grammar_config;

typedef struct ds_grammar_frame {
    int32_t node, below;
} ds_grammar_frame;

typedef struct ds_grammar_state {
    ds_grammar_config *configs; /* [n], sorted */
    size_t n;
    bool complete;  /* the text may end here */
    int32_t *next;  /* [n_classes] */
    uint64_t *mask; /* a bit a token; NULL until it is asked for */
} ds_grammar_state;

typedef struct ds_grammar_store {
    const ds_rules *rules; /* borrowed, checked */
    unsigned char class_of[256];
    size_t n_classes;
    bool spells[256];
    ds_grammar_frame *frames; /* [n_frames]; 0 is the empty stack */
    size_t n_frames, frame_capacity;
    ds_grammar_state *states;
    size_t n_states, state_capacity;
    int32_t *frame_slots, *state_slots; /* by hash; −1: free */
    size_t frame_slots_n, state_slots_n;
    struct ds_grammar_closure *closure; /* work memory */
    size_t bytes;
} ds_grammar_store;

ds_status ds_grammar_store_init(ds_grammar_store *s, const ds_rules *rules, const bool spells[256]);
void ds_grammar_store_clear(ds_grammar_store *s);

/* The state before any byte. DS_STATE_FAILED as below. */
int32_t ds_grammar_store_begin(ds_grammar_store *s);
/* The state after a byte: a number, DS_STATE_DEAD or DS_STATE_FAILED. */
int32_t ds_grammar_store_step(ds_grammar_store *s, int32_t state, unsigned char byte);
/* The state of another store of the same rules, in this one. */
int32_t ds_grammar_store_copy(ds_grammar_store *s, const ds_grammar_store *from, int32_t state);

#endif
