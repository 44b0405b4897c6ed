/* A grammar being matched, from rules. */
#ifndef DS_INFER_GRAMMAR_H
#define DS_INFER_GRAMMAR_H

#include <jansson.h>

#include "deepseek/grammar.h"
#include "infer/grammar_rules.h"
#include "infer/vocab_trie.h"

/* rules is emptied in any case. The trie is borrowed. `what` begins the messages of ds_rules_check.
 */
ds_status ds_grammar_make(ds_rules *rules, const ds_vocab_trie *trie, const char *what,
                          ds_grammar **out);
ds_grammar *ds_grammar_retain(ds_grammar *grammar); /* NULL is fine */

/* The texts' own compilers: rules out of a schema (json_schema.c), out of GBNF (gbnf.c). `where`
 * begins the messages. On failure there is nothing to clear. */
ds_status ds_json_schema_rules(const char *schema, size_t size, ds_rules *out);
ds_status ds_gbnf_rules(const char *text, size_t size, ds_rules *out);
/* The same as a rule among others; on failure the others are to be cleared with what is there. */
ds_status ds_json_schema_add(ds_rules *rules, json_t *schema, int32_t *rule);
/* For the vocabulary of a model; rules is emptied in any case. */
ds_status ds_grammar_from_rules(ds_model *model, ds_rules *rules, const char *what,
                                ds_grammar **out);

/* Bytes held for what was matched so far, of one grammar; past DS_GRAMMAR_MOST_BYTES it is begun
 * anew. */
size_t ds_grammar_bytes(ds_grammar *grammar);
enum { DS_GRAMMAR_MOST_BYTES = 64 << 20 };

#endif
