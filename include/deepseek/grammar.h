/* Grammars: answers that have a given form, whatever the model would rather say.
 *
 *     ds_model *model = NULL;          // ds_model_from_pretrained
 *     ds_generator *generator = NULL;  // ds_generator_new, and fed with a prompt
 *     ds_grammar *grammar = NULL;  ds_grammar_cursor *cursor = NULL;
 *     const char schema[] = "{\"type\": \"array\", \"items\": {\"type\": \"integer\"}}";
 *     const ds_sampling sampling = {.temperature = 0.8f, .seed = 1};
 *     int32_t id = -1;
 *     size_t n_ends = 0;
 *     const int32_t *ends = ds_model_end_tokens(model, &n_ends);
 *     ds_grammar_from_json_schema(model, schema, sizeof schema - 1, &grammar);
 *     ds_grammar_cursor_new(grammar, &cursor);
 *     ds_generator_constrain(generator, cursor, ends, n_ends); // or ds_request.grammar
 *     while (ds_generator_next(generator, sampling, &id) == DS_OK)
 *         printf("%d ", id); // until the text is whole
 *     ds_grammar_cursor_free(cursor);
 *     ds_grammar_free(grammar);
 *
 * A grammar is a pushdown automaton over bytes. Where a text stands in it is a set of places, each
 * with a stack; such sets are numbered as they come up and what follows them is kept, so that an
 * automaton without stacks grows as it is used, and the tokens that may follow are found by one
 * walk over the vocabulary for each set (the idea of Willard and Louf 2023, with the stacks of Koo
 * et al. 2024). Every place from which the end cannot be reached is taken out beforehand: a text
 * never gets stuck.
 */
#ifndef DEEPSEEK_GRAMMAR_H
#define DEEPSEEK_GRAMMAR_H

#include "deepseek/inference.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A ds_grammar may be used by several threads at once; a ds_grammar_cursor, which is where one text
 * stands in it, belongs to one thread at a time. */

/* JSON that the schema allows (a subset of JSON Schema 2020-12: docs/serve.md lists the keywords).
 * Between the parts there is at most one space, or a line break and its indentation; properties
 * come in the order of the schema, and others only where additionalProperties says so. The model is
 * borrowed and must outlive the grammar. DS_INVALID and DS_UNSUPPORTED name the place and the
 * keyword: "schema at #/properties/a: 'uniqueItems' is not supported". */
DS_API ds_status ds_grammar_from_json_schema(ds_model *model, const char *schema, size_t size,
                                             ds_grammar **out);

/* Text that the rules of a grammar in GBNF (llama.cpp's notation) allow; it begins at `root`.
 * DS_INVALID names line and column. */
DS_API ds_status ds_grammar_from_gbnf(ds_model *model, const char *text, size_t size,
                                      ds_grammar **out);

/* NULL is fine. Cursors and requests that use it keep it alive. */
DS_API void ds_grammar_free(ds_grammar *grammar);

/* At the beginning. */
DS_API ds_status ds_grammar_cursor_new(ds_grammar *grammar, ds_grammar_cursor **out);
DS_API void ds_grammar_cursor_free(ds_grammar_cursor *cursor); /* NULL is fine */

/* Makes −∞ of the logits [n] of all tokens that may not follow. The tokens in `ends` may follow
 * where the text can end, and nowhere else; 64 of them at most. */
DS_API ds_status ds_grammar_mask(ds_grammar_cursor *cursor, float *logits, int64_t n,
                                 const int32_t *ends, size_t n_ends);
/* Goes on by a token. DS_INVALID for one that may not follow; then nothing changed. */
DS_API ds_status ds_grammar_accept(ds_grammar_cursor *cursor, int32_t token);
/* Whether the text may end here, and whether it must. */
DS_API bool ds_grammar_may_end(ds_grammar_cursor *cursor);
DS_API bool ds_grammar_must_end(ds_grammar_cursor *cursor);

#ifdef __cplusplus
}
#endif
#endif
