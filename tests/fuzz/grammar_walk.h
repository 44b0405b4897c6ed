/* What both fuzzers of grammars do with rules that compiled: they are checked, and texts are walked
 * that choose by the fuzzer's bytes. A walk must never be where nothing may follow and nothing may
 * end. */
#ifndef DS_FUZZ_GRAMMAR_WALK_H
#define DS_FUZZ_GRAMMAR_WALK_H

#include <stddef.h>
#include <stdint.h>

#include "infer/grammar_store.h"

/* Clears the rules. */
static void walk(ds_rules *rules, const uint8_t *data, size_t size) {
    enum { LONGEST = 200 };
    ds_grammar_store store;
    bool spells[256];
    for (int byte = 0; byte < 256; byte++)
        spells[byte] = true;
    const bool good = ds_rules_check(rules, spells, "rules") == DS_OK &&
                      ds_grammar_store_init(&store, rules, spells) == DS_OK;
    int32_t state = good ? ds_grammar_store_begin(&store) : DS_STATE_DEAD;
    for (size_t i = 0; good && i < LONGEST; i++) {
        if (state < 0)
            __builtin_trap();
        const unsigned first = size > 0 ? data[i % size] + (unsigned)(i / size) * 37u : 0;
        int32_t next = DS_STATE_DEAD;
        for (unsigned k = 0; k < 256 && next < 0; k++)
            next = ds_grammar_store_step(&store, state, (unsigned char)(first + k));
        if (next < 0 && !store.states[state].complete)
            __builtin_trap();
        if (next < 0)
            break;
        state = next;
    }
    if (good)
        ds_grammar_store_clear(&store);
    ds_rules_clear(rules);
}

#endif
