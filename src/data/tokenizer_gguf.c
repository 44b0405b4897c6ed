/* The vocabulary of a GGUF file as the tokenizer.json that means the same. The file names one of
 * four makes ("tokenizer.ggml.model"): "gpt2", byte-level BPE with merges; "llama" and "t5",
 * SentencePiece with scores; "bert", WordPiece. How BPE's texts fall into words is told by a name
 * only ("tokenizer.ggml.pre"), which stands for patterns that each family publishes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/gguf.h"
#include "data/scored_pieces.h"
#include "data/tokenizer.h"

/* ---- patterns of words ----------------------------------------------------------------------- */

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* of GPT-4's make: contractions in any case, and digits in groups of their own */
#define GPT4(digits)                                                                               \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits                           \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
/* words end where small letters are followed by capitals */
#define CAMEL(short, digits)                                                                       \
    "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER                                                       \
    "+" short "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER                                            \
              "*" short "|" digits                                                                 \
                        "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define IDEOGRAPHS "[一-龥ࠀ-一가-퟿]+"

enum { MOST_STAGES = 6 };

static const struct {
    const char *names; /* with a space before and after each */
    bool ignore_merges;
    const char *stages[MOST_STAGES];
} pre_tokenizers[] = {
    {" gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de jina-v2-code mpt olmo gigachat "
     "roberta-bpe ",
     false,
     {GPT2}},
    {" default ", false, {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {" llama-bpe llama3 llama-v3 dbrx smaug-bpe falcon3 ", true, {GPT4("\\p{N}{1,3}")}},
    {" qwen2 qwen3 deepseek-r1-qwen stablelm2 hunyuan megrez ", false, {GPT4("\\p{N}")}},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b ", false, {"\\p{N}", GPT2}},
    {" falcon ", false, {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {" deepseek-llm ",
     false,
     {"[\\r\\n]", "\\s?(?:(?![ა-ჿ])[\\p{Lu}\\p{Ll}\\p{Lt}])+", "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
      "\\s+$", IDEOGRAPHS, "\\p{N}+"}},
    {" deepseek-coder ", false, {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", IDEOGRAPHS, "\\p{N}"}},
    {" deepseek-v3 ",
     false,
     {"\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
      "[!\"#$%&'()*+,\\-./"
      ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}"
      "]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
    {" gpt-4o llama4 ", false, {CAMEL("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "\\p{N}{1,3}")}},
    {" tekken ", true, {CAMEL("", "\\p{N}")}},
};
enum { N_PRE_TOKENIZERS = sizeof pre_tokenizers / sizeof *pre_tokenizers };

static ds_status find_pre_tokenizer(const ds_gguf *g, int *out) {
    const char *given = ds_gguf_text(g, "tokenizer.ggml.pre");
    const char *name = given ? given : "default"; /* files older than the key */
    char wanted[64];
    snprintf(wanted, sizeof wanted, " %.60s ", name);
    ds_text known = {0};
    for (*out = 0; *out < N_PRE_TOKENIZERS; ++*out) {
        if (!strchr(name, ' ') && strstr(pre_tokenizers[*out].names, wanted))
            break;
        ds_text_puts(&known, pre_tokenizers[*out].names);
    }
    const ds_status status =
        *out < N_PRE_TOKENIZERS
            ? DS_OK
            : ds_fail(
                  DS_UNSUPPORTED,
                  "%s: texts cut as \"%.60s\" (tokenizer.ggml.pre) are not supported; supported "
                  "are:%s",
                  ds_gguf_path(g), name, known.data ? known.data : "");
    ds_text_clear(&known);
    return status;
}

/* ---- the list of tokens ---------------------------------------------------------------------- */

typedef struct vocabulary {
    const ds_gguf *g;
    ds_gguf_strings tokens;
    ds_gguf_numbers types, scores; /* n 0: none */
} vocabulary;

static ds_status open_vocabulary(const ds_gguf *g, vocabulary *v) {
    *v = (vocabulary){.g = g};
    if (!ds_gguf_list_strings(g, "tokenizer.ggml.tokens", &v->tokens) || v->tokens.n == 0)
        return ds_fail(DS_INVALID, "%s: has no vocabulary \"tokenizer.ggml.tokens\"",
                       ds_gguf_path(g));
    (void)ds_gguf_list_numbers(g, "tokenizer.ggml.token_type", &v->types);
    (void)ds_gguf_list_numbers(g, "tokenizer.ggml.scores", &v->scores);
    const size_t n = v->tokens.n;
    if (n > DS_TOKEN_ID_LIMIT || (v->types.n != 0 && v->types.n != n) ||
        (v->scores.n != 0 && v->scores.n != n))
        return ds_fail(DS_CORRUPT, "%s: %zu tokens, %zu types and %zu scores do not go together",
                       ds_gguf_path(g), n, v->types.n, v->scores.n);
    return DS_OK;
}

static ds_piece_kind kind_of(const vocabulary *v, size_t id) {
    const double x = v->types.n > 0 ? ds_gguf_number(&v->types, id) : DS_PIECE_NORMAL;
    return x >= DS_PIECE_NORMAL && x <= DS_PIECE_BYTE ? (ds_piece_kind)x : DS_PIECE_NORMAL;
}

/* Name of the token that a key tells of; false where there is none. */
static bool token_at(const vocabulary *v, int64_t id, const char **name, size_t *length) {
    ds_gguf_strings list = v->tokens;
    if (id < 0 || (size_t)id >= list.n)
        return false;
    for (int64_t i = 0; i <= id; i++)
        *name = ds_gguf_next_string(&list, length);
    return true;
}

static int64_t id_of(const ds_gguf *g, const char *key) {
    int64_t id = -1;
    return ds_gguf_integer(g, key, &id) ? id : -1;
}

static bool flag(const ds_gguf *g, const char *key, bool otherwise) {
    int64_t value = otherwise;
    (void)ds_gguf_integer(g, key, &value);
    return value != 0;
}

static ds_status check_name(const vocabulary *v, const char *name, size_t n, size_t id) {
    return memchr(name, 0, n) || ds_utf8_valid(name, n) != n
               ? ds_fail(DS_CORRUPT, "%s: token %zu is no UTF-8", ds_gguf_path(v->g), id)
               : DS_OK;
}

static void put_marks(const vocabulary *v, bool begins, bool ends, ds_text *json) {
    const char *begin = NULL, *end = NULL;
    size_t n_begin = 0, n_end = 0;
    if (begins && !token_at(v, id_of(v->g, "tokenizer.ggml.bos_token_id"), &begin, &n_begin))
        begin = NULL;
    if (ends && !token_at(v, id_of(v->g, "tokenizer.ggml.eos_token_id"), &end, &n_end))
        end = NULL;
    if (begin || end)
        ds_json_put_marks(json, begin, n_begin, end, n_end);
}

/* ---- byte-level BPE -------------------------------------------------------------------------- */

static ds_status put_added(const vocabulary *v, ds_text *json) {
    ds_gguf_strings list = v->tokens;
    bool first = true;
    ds_text_puts(json, "{\"version\": \"1.0\", \"added_tokens\": [");
    for (size_t id = 0; id < v->tokens.n; id++) {
        size_t n = 0;
        const char *name = ds_gguf_next_string(&list, &n);
        const ds_piece_kind kind = kind_of(v, id);
        DS_TRY(check_name(v, name, n, id));
        if (n == 0 ||
            (kind != DS_PIECE_CONTROL && kind != DS_PIECE_UNKNOWN && kind != DS_PIECE_GIVEN))
            continue;
        ds_json_put_added(json, name, n, (int32_t)id, kind != DS_PIECE_GIVEN, first);
        first = false;
    }
    ds_text_puts(json, "],\n");
    return DS_OK;
}

static void put_stages(int which, ds_text *json) {
    ds_text_puts(json, "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [");
    for (int i = 0; i < MOST_STAGES && pre_tokenizers[which].stages[i]; i++) {
        const char *pattern = pre_tokenizers[which].stages[i];
        ds_text_puts(json, "{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": "
                           "{\"Regex\": ");
        ds_json_put_string(json, pattern, strlen(pattern));
        ds_text_puts(json, "}}, ");
    }
    ds_text_puts(json, "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": "
                       "false}]},\n\"decoder\": {\"type\": \"ByteLevel\"},\n");
}

static ds_status put_names(const vocabulary *v, ds_text *json) {
    ds_gguf_strings list = v->tokens;
    ds_text_puts(json, "\"vocab\": {");
    for (size_t id = 0; id < v->tokens.n; id++) {
        size_t n = 0;
        const char *name = ds_gguf_next_string(&list, &n);
        ds_text_puts(json, id ? ",\n" : "\n");
        ds_json_put_string(json, name, n);
        ds_text_printf(json, ": %zu", id);
    }
    ds_text_puts(json, "}");
    return DS_OK;
}

static ds_status put_merges(const vocabulary *v, ds_text *json) {
    ds_gguf_strings merges;
    if (!ds_gguf_list_strings(v->g, "tokenizer.ggml.merges", &merges))
        return ds_fail(DS_INVALID, "%s: has no list \"tokenizer.ggml.merges\"", ds_gguf_path(v->g));
    ds_text_puts(json, ", \"merges\": [");
    for (size_t i = 0; i < merges.n; i++) {
        size_t n = 0;
        const char *merge = ds_gguf_next_string(&merges, &n);
        DS_TRY(check_name(v, merge, n, i));
        ds_text_puts(json, i ? ",\n" : "\n");
        ds_json_put_string(json, merge, n);
    }
    ds_text_puts(json, "]");
    return DS_OK;
}

static ds_status put_bpe(const vocabulary *v, ds_text *json) {
    int which = 0;
    DS_TRY(find_pre_tokenizer(v->g, &which));
    DS_TRY(put_added(v, json));
    put_stages(which, json);
    put_marks(v, flag(v->g, "tokenizer.ggml.add_bos_token", pre_tokenizers[which].ignore_merges),
              flag(v->g, "tokenizer.ggml.add_eos_token", false), json);
    ds_text_printf(json, "\"model\": {\"type\": \"BPE\", \"ignore_merges\": %s, ",
                   pre_tokenizers[which].ignore_merges ? "true" : "false");
    DS_TRY(put_names(v, json));
    DS_TRY(put_merges(v, json));
    ds_text_puts(json, "}}\n");
    return DS_OK;
}

/* ---- SentencePiece --------------------------------------------------------------------------- */

static ds_status put_scored(const vocabulary *v, bool is_unigram, ds_text *json) {
    ds_gguf_strings list = v->tokens;
    ds_gguf_numbers charsmap = {0};
    if (v->scores.n == 0)
        return ds_fail(DS_INVALID, "%s: has no list \"tokenizer.ggml.scores\"", ds_gguf_path(v->g));
    (void)ds_gguf_list_numbers(v->g, "tokenizer.ggml.precompiled_charsmap", &charsmap);
    ds_scored_vocab vocab = {
        .is_unigram = is_unigram,
        .add_prefix = flag(v->g, "tokenizer.ggml.add_space_prefix", true),
        .trim = flag(v->g, "tokenizer.ggml.remove_extra_whitespaces", is_unigram),
        .charsmap = charsmap.data,
        .charsmap_size = charsmap.kind <= 1 ? charsmap.n : 0, /* of single bytes */
        .begin = flag(v->g, "tokenizer.ggml.add_bos_token", !is_unigram)
                     ? (int32_t)id_of(v->g, "tokenizer.ggml.bos_token_id")
                     : -1,
        .end = flag(v->g, "tokenizer.ggml.add_eos_token", is_unigram)
                   ? (int32_t)id_of(v->g, "tokenizer.ggml.eos_token_id")
                   : -1,
    };
    ds_status status = DS_OK;
    for (size_t id = 0; id < v->tokens.n && status == DS_OK; id++) {
        size_t n = 0;
        const char *name = ds_gguf_next_string(&list, &n);
        const ds_piece_kind kind = kind_of(v, id);
        vocab.byte_pieces = vocab.byte_pieces || kind == DS_PIECE_BYTE;
        status = ds_scored_add(&vocab, name, n, (float)ds_gguf_number(&v->scores, id), kind);
    }
    if (status == DS_OK)
        status = ds_scored_put_json(&vocab, ds_gguf_path(v->g), json);
    free(vocab.pieces);
    return status;
}

static ds_status put_llama(const vocabulary *v, ds_text *json) {
    return put_scored(v, false, json);
}

static ds_status put_t5(const vocabulary *v, ds_text *json) {
    return put_scored(v, true, json);
}

/* ---- WordPiece ------------------------------------------------------------------------------- */

/* llama.cpp writes "▁the" for "the", "ing" for "##ing", and leaves "[CLS]" as it is: turned back,
 * they are the lines of a vocab.txt. */
static ds_status put_bert(const vocabulary *v, ds_text *json) {
    static const char space[] = "▁";
    const size_t n_space = sizeof space - 1;
    ds_gguf_strings list = v->tokens;
    ds_text lines = {0};
    for (size_t id = 0; id < v->tokens.n; id++) {
        size_t n = 0;
        const char *name = ds_gguf_next_string(&list, &n);
        if (memchr(name, '\n', n)) {
            ds_text_clear(&lines);
            return ds_fail(DS_CORRUPT, "%s: token %zu has two lines", ds_gguf_path(v->g), id);
        }
        const bool begins = n >= n_space && memcmp(name, space, n_space) == 0;
        const bool is_mark = n > 1 && name[0] == '[' && name[n - 1] == ']';
        if (!begins && !is_mark)
            ds_text_puts(&lines, "##");
        ds_text_append(&lines, begins ? name + n_space : name, begins ? n - n_space : n);
        ds_text_puts(&lines, "\n");
    }
    ds_status status = lines.poisoned ? DS_OUT_OF_MEMORY : DS_OK;
    if (status == DS_OK)
        status = ds_tokenizer_json_from_wordlist(ds_gguf_path(v->g), lines.data, lines.length, NULL,
                                                 json);
    ds_text_clear(&lines);
    return status;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    ds_status (*put)(const vocabulary *v, ds_text *json);
} makes[] = {{"gpt2", put_bpe}, {"llama", put_llama}, {"t5", put_t5}, {"bert", put_bert}};

ds_status ds_tokenizer_json_from_gguf(const ds_gguf *g, ds_text *json) {
    const char *name = ds_gguf_text(g, "tokenizer.ggml.model");
    vocabulary v;
    DS_TRY(open_vocabulary(g, &v));
    for (size_t i = 0; name && i < sizeof makes / sizeof *makes; i++)
        if (strcmp(makes[i].name, name) == 0) {
            DS_TRY(makes[i].put(&v, json));
            return json->poisoned ? DS_OUT_OF_MEMORY : DS_OK;
        }
    return ds_fail(DS_UNSUPPORTED,
                   "%s: a tokenizer of the make \"%.40s\" (tokenizer.ggml.model) is not supported; "
                   "gpt2, llama, t5 and bert are",
                   ds_gguf_path(g), name ? name : "(none)");
}
