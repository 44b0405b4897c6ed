/* Tokenizers: text to the token ids a model reads, and back; and learning one from text.
 *
 *     ds_tokenizer *tok;
 *     if (ds_tokenizer_load("tokenizer.json", &tok) != DS_OK)
 *         fprintf(stderr, "%s\n", ds_error());
 *     int32_t *ids;
 *     size_t n;
 *     ds_tokenizer_encode(tok, "In the beginning", 16, &ids, &n);
 *     free(ids);
 *     ds_tokenizer_free(tok);
 *
 * Three models are known. Byte-pair encoding (Sennrich et al. 2016): a word begins as single bytes
 * (GPT-2, Llama 3, DeepSeek) or characters (Llama 2), and the pair of neighbours that was learned
 * first is joined, again and again, until no learned pair is left. WordPiece (BERT): a word is cut
 * into the longest pieces there are, from its beginning on. Unigram (T5, SentencePiece; Kudo 2018):
 * a text is cut into the likeliest sequence of pieces. The format is Hugging Face's tokenizer.json.
 * Text is bytes: what is not UTF-8 is encoded all the same where the vocabulary has a token for
 * every byte, and comes back as it was.
 */
#ifndef DEEPSEEK_TOKENIZER_H
#define DEEPSEEK_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "deepseek/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Never changes once made; all functions on it may be called from several threads at once. */
typedef struct ds_tokenizer ds_tokenizer;

/* ---- Loading and saving ------------------------------------------------------------------- */

/* Reads a tokenizer: a tokenizer.json, or a folder that holds one (there tokenizer_config.json, if
 * present, names the tokens that begin and end a text); SentencePiece's .model; the vocabulary of a
 * .gguf; BERT's vocab.txt (with tokenizer_config.json beside it); GPT-2's pair
 * encoder.json/vocab.json + vocab.bpe/merges.txt (give the folder, or the first file: the second is
 * looked for beside it); or llama2.c's tokenizer .bin. Free with ds_tokenizer_free.
 * DS_NOT_FOUND, DS_IO; DS_CORRUPT names what is wrong in the file; DS_UNSUPPORTED names the part
 * (a model or pre-tokenizer that is unknown here). */
DS_API ds_status ds_tokenizer_load(const char *path, ds_tokenizer **out);

/* The same from the bytes of a tokenizer.json, which are copied. */
DS_API ds_status ds_tokenizer_from_json(const char *data, size_t size, ds_tokenizer **out);

/* Writes a tokenizer.json that loads as this tokenizer, in place of what was at path. */
DS_API ds_status ds_tokenizer_save(const ds_tokenizer *tok, const char *path);

/* NULL is fine. */
DS_API void ds_tokenizer_free(ds_tokenizer *tok);

/* ---- Encoding and decoding ---------------------------------------------------------------- */

/* Text to ids. Added tokens written out in the text ("<|endoftext|>") become their one id; nothing
 * is put before or after. *ids: [*n], the caller's to free(); NULL never with DS_OK.
 * DS_INVALID when a character has no token and there is none for unknown text. */
DS_API ds_status ds_tokenizer_encode(const ds_tokenizer *tok, const char *text, size_t length,
                                     int32_t **ids, size_t *n);

/* The same, but special tokens written out in the text are ordinary text: for text by strangers,
 * who must not be able to end a turn or begin one. */
DS_API ds_status ds_tokenizer_encode_plain(const ds_tokenizer *tok, const char *text, size_t length,
                                           int32_t **ids, size_t *n);

/* As ds_tokenizer_encode, with the marks that the model expects around a text ("[CLS]" … "[SEP]",
 * "<s>" …) as the tokenizer's post-processor says; a tokenizer without one puts none. most: tokens,
 * marks included; of a longer text the end is left out; 0: all are given. DS_INVALID if the marks
 * alone are more. */
DS_API ds_status ds_tokenizer_encode_marked(const ds_tokenizer *tok, const char *text,
                                            size_t length, size_t most, int32_t **ids, size_t *n);

/* Ids to the bytes they stand for, special tokens by their names. *text: *length bytes and a zero
 * byte, the caller's to free(). An id outside [0, vocab_size) is DS_INVALID; one in a gap of the
 * vocabulary stands for nothing. */
DS_API ds_status ds_tokenizer_decode(const ds_tokenizer *tok, const int32_t *ids, size_t n,
                                     char **text, size_t *length);

/* ---- Looking at the vocabulary ------------------------------------------------------------ */

/* Highest id + 1: what a model's embedding needs at least. */
DS_API int64_t ds_tokenizer_vocab_size(const ds_tokenizer *tok);

/* The id of a token by its name in the vocabulary ("<|endoftext|>", "Ġthe"); -1 if there is none.
 */
DS_API int32_t ds_tokenizer_find(const ds_tokenizer *tok, const char *name);

/* The token that begins a text, and the one that ends it; -1 if there is none. */
DS_API int32_t ds_tokenizer_bos(const ds_tokenizer *tok);
DS_API int32_t ds_tokenizer_eos(const ds_tokenizer *tok);

/* Whether the id is a mark for the model (end of text, turn) rather than text. */
DS_API bool ds_tokenizer_is_special(const ds_tokenizer *tok, int32_t id);

/* The bytes a token stands for; *length of them, borrowed from tok. NULL for an id that is none. */
DS_API const char *ds_tokenizer_bytes(const ds_tokenizer *tok, int32_t id, size_t *length);

/* ---- Decoding as tokens come -------------------------------------------------------------- */

/* One text that grows token by token. Belongs to one thread at a time. */
typedef struct ds_detokenizer ds_detokenizer;

/* tok is borrowed and must outlive it. NULL when out of memory. */
DS_API ds_detokenizer *ds_detokenizer_new(const ds_tokenizer *tok);

/* Takes the next id and gives the text that is now certain: *length bytes at *text, always whole
 * UTF-8 characters, often none. A character spread over tokens is held back until it is whole;
 * bytes that are no UTF-8 come as U+FFFD. Special tokens give nothing. Borrowed until the next
 * call. An id outside the vocabulary is DS_INVALID. */
DS_API ds_status ds_detokenizer_push(ds_detokenizer *d, int32_t id, const char **text,
                                     size_t *length);

/* Ends the text: what was held back comes as U+FFFD. A new text may follow. */
DS_API ds_status ds_detokenizer_finish(ds_detokenizer *d, const char **text, size_t *length);

/* NULL is fine. */
DS_API void ds_detokenizer_free(ds_detokenizer *d);

/* ---- Learning a vocabulary ---------------------------------------------------------------- */

/* Called between pieces of work, from the calling thread: stage is "counting words" (done, total in
 * bytes on disk) or "merging pairs" (done, total in merges). Return false to stop the training. */
typedef bool ds_bpe_progress(void *context, const char *stage, int64_t done, int64_t total);

typedef struct ds_bpe_train_opts {
    int64_t vocab_size;                /* special tokens, 256 bytes and merges together */
    int64_t min_count;                 /* a pair seen less often is not merged */
    const char *const *special_tokens; /* [n_special]; take the ids from 0 on, in this order */
    size_t n_special;
    const char *pattern; /* how text falls into words, PCRE2; NULL: GPT-2's */
    int threads;         /* 0: all. The result is the same for any number. */
    ds_bpe_progress *progress;
    void *progress_context;
} ds_bpe_train_opts;

#define DS_BPE_TRAIN_DEFAULTS                                                                      \
    { .vocab_size = 32000, .min_count = 2 }

/* Learns a byte-level BPE vocabulary from text files and folders (whatever ds_text_source_open
 * takes). Pairs of equal count are merged in the order of their ids, as Hugging Face's trainer
 * does, so the result depends on the text alone. A text too small for vocab_size gives a smaller
 * vocabulary. Memory grows with the number of different words, not with the text.
 * DS_INVALID for a vocab_size without room for the bytes, DS_CANCELLED when progress says so. */
DS_API ds_status ds_bpe_train(const char *const *paths, size_t n_paths,
                              const ds_bpe_train_opts *opts, ds_tokenizer **out);

#ifdef __cplusplus
}
#endif
#endif
