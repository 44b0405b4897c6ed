/* With scores in place of merges, byte-pair encoding joins the neighbours whose joint text has the
 * highest score. As a list of merges that is: every way to cut a piece into two pieces, pieces of
 * the highest score first. */
#include "data/scored_pieces.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "data/tokenizer.h"

ds_status ds_scored_add(ds_scored_vocab *v, const char *bytes, size_t length, float score,
                        ds_piece_kind kind) {
    ds_scored_piece *grown = ds_grow(v->pieces, &v->capacity, v->n + 1, sizeof *grown);
    if (!grown)
        return DS_OUT_OF_MEMORY;
    v->pieces = grown;
    v->pieces[v->n] = (ds_scored_piece){
        .bytes = bytes, .length = length, .score = score, .kind = kind, .id = (int32_t)v->n};
    v->n++;
    return DS_OK;
}

/* ---- merges ---------------------------------------------------------------------------------- */

static int by_bytes(const void *a, const void *b) {
    const ds_scored_piece *x = a, *y = b;
    const int order = memcmp(x->bytes, y->bytes, x->length < y->length ? x->length : y->length);
    if (order != 0 || x->length == y->length)
        return order != 0 ? order : (x->id > y->id) - (x->id < y->id);
    return x->length > y->length ? 1 : -1;
}

static int by_score(const void *a, const void *b) {
    const ds_scored_piece *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static bool has_piece(const ds_scored_piece *sorted, size_t n, const char *bytes, size_t length) {
    size_t lo = 0, hi = n;
    const ds_scored_piece wanted = {.bytes = bytes, .length = length, .id = -1};
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (by_bytes(&sorted[mid], &wanted) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && sorted[lo].length == length && memcmp(sorted[lo].bytes, bytes, length) == 0;
}

ds_status ds_scored_put_merges(ds_scored_piece *pieces, size_t n, ds_text *json) {
    ds_scored_piece *sorted = ds_malloc((n + 1) * sizeof *sorted);
    size_t n_sorted = 0;
    bool first = true;
    if (!sorted)
        return DS_OUT_OF_MEMORY;
    for (size_t i = 0; i < n; i++)
        if (pieces[i].kind == DS_PIECE_NORMAL)
            sorted[n_sorted++] = pieces[i];
    qsort(sorted, n_sorted, sizeof *sorted, by_bytes);
    if (n > 0)
        qsort(pieces, n, sizeof *pieces, by_score);
    for (size_t i = 0; i < n; i++) {
        const ds_scored_piece *p = &pieces[i];
        for (size_t cut = 1; cut < p->length && p->kind == DS_PIECE_NORMAL; cut++) {
            if (((unsigned char)p->bytes[cut] & 0xc0) == 0x80 || /* inside a character */
                !has_piece(sorted, n_sorted, p->bytes, cut) ||
                !has_piece(sorted, n_sorted, p->bytes + cut, p->length - cut))
                continue;
            ds_text_puts(json, first ? "\n[" : ",\n[");
            ds_json_put_string(json, p->bytes, cut);
            ds_text_puts(json, ", ");
            ds_json_put_string(json, p->bytes + cut, p->length - cut);
            ds_text_puts(json, "]");
            first = false;
        }
    }
    free(sorted);
    return json->poisoned ? DS_OUT_OF_MEMORY : DS_OK;
}

/* A word that somebody asked for wins over whatever else could stand there. */
static float score_of(const ds_scored_vocab *v, const ds_scored_piece *p) {
    float most = -1e30f;
    if (p->kind != DS_PIECE_GIVEN)
        return p->score;
    for (size_t i = 0; i < v->n; i++)
        if (v->pieces[i].kind == DS_PIECE_NORMAL && v->pieces[i].score > most)
            most = v->pieces[i].score;
    return (float)p->length * most - 0.1f; /* SentencePiece's formula */
}

/* ---- the file -------------------------------------------------------------------------------- */

void ds_json_put_added(ds_text *json, const char *name, size_t length, int32_t id, bool special,
                       bool first) {
    ds_text_printf(json, "%s{\"id\": %d, \"content\": ", first ? "\n" : ",\n", id);
    ds_json_put_string(json, name, length);
    ds_text_printf(json, ", \"special\": %s, \"normalized\": false}", special ? "true" : "false");
}

void ds_json_put_marks(ds_text *json, const char *begin, size_t n_begin, const char *end,
                       size_t n_end) {
    ds_text_puts(json, "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [");
    if (begin) {
        ds_text_puts(json, "{\"SpecialToken\": {\"id\": ");
        ds_json_put_string(json, begin, n_begin);
        ds_text_puts(json, ", \"type_id\": 0}}, ");
    }
    ds_text_puts(json, "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}");
    if (end) {
        ds_text_puts(json, ", {\"SpecialToken\": {\"id\": ");
        ds_json_put_string(json, end, n_end);
        ds_text_puts(json, ", \"type_id\": 0}}");
    }
    ds_text_puts(json, "]},\n");
}

static void put_added(const ds_scored_vocab *v, ds_text *json) {
    bool first = true;
    ds_text_puts(json, "\"added_tokens\": [");
    for (size_t i = 0; i < v->n; i++) {
        const ds_scored_piece *p = &v->pieces[i];
        const bool special = p->kind == DS_PIECE_CONTROL || p->kind == DS_PIECE_UNKNOWN;
        /* Unigram finds them by their scores; one with a mark of spaces in it is met after
         * normalising only */
        const bool given = p->kind == DS_PIECE_GIVEN && !v->is_unigram &&
                           !memmem(p->bytes, p->length, "▁", strlen("▁"));
        if (p->length == 0 || !(special || given))
            continue;
        ds_json_put_added(json, p->bytes, p->length, p->id, special, first);
        first = false;
    }
    ds_text_puts(json, "],\n");
}

static ds_status put_charsmap(const ds_scored_vocab *v, ds_text *json) {
    unsigned char *text = ds_malloc(v->charsmap_size / 3 * 4 + 5);
    if (!text)
        return DS_OUT_OF_MEMORY;
    EVP_EncodeBlock(text, v->charsmap, (int)v->charsmap_size);
    ds_text_printf(json, "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"%s\"}, ",
                   (const char *)text);
    free(text);
    return DS_OK;
}

static ds_status put_normaliser(const ds_scored_vocab *v, ds_text *json) {
    ds_text_puts(json, "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [");
    if (v->charsmap_size > 0)
        DS_TRY(put_charsmap(v, json));
    if (v->trim)
        ds_text_puts(
            json, "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"^ +|(?<![ ▁])[ ▁]+\\\\z\"}, "
                  "\"content\": \"\"}, {\"type\": \"Replace\", \"pattern\": {\"Regex\": "
                  "\" {2,}\"}, \"content\": \" \"}, ");
    if (v->add_prefix)
        ds_text_puts(json, "{\"type\": \"Prepend\", \"prepend\": \"▁\"}, ");
    ds_text_puts(json, "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "
                       "\"▁\"}]},\n");
    return DS_OK;
}

static void put_decoder(const ds_scored_vocab *v, ds_text *json) {
    ds_text_puts(json, "\"decoder\": {\"type\": \"Sequence\", \"decoders\": [{\"type\": "
                       "\"Replace\", \"pattern\": {\"String\": \"▁\"}, \"content\": \" \"}, ");
    if (v->byte_pieces)
        ds_text_puts(json, "{\"type\": \"ByteFallback\"}, ");
    ds_text_printf(json,
                   "{\"type\": \"Fuse\"}, {\"type\": \"Strip\", \"content\": \" \", \"start\": %d, "
                   "\"stop\": 0}]},\n",
                   v->add_prefix ? 1 : 0);
}

static const ds_scored_piece *unknown_of(const ds_scored_vocab *v) {
    for (size_t i = 0; i < v->n; i++)
        if (v->pieces[i].kind == DS_PIECE_UNKNOWN)
            return &v->pieces[i];
    return NULL;
}

static void put_unigram(const ds_scored_vocab *v, ds_text *json) {
    const ds_scored_piece *unknown = unknown_of(v);
    ds_text_printf(json, "\"type\": \"Unigram\", \"unk_id\": %d, \"vocab\": [",
                   unknown ? unknown->id : -1);
    for (size_t i = 0; i < v->n; i++) {
        ds_text_puts(json, i ? ",\n[" : "\n[");
        ds_json_put_string(json, v->pieces[i].bytes, v->pieces[i].length);
        ds_text_printf(json, ", %.9g]", (double)score_of(v, &v->pieces[i]));
    }
    ds_text_puts(json, "]");
}

static ds_status put_bpe(ds_scored_vocab *v, ds_text *json) {
    const ds_scored_piece *unknown = unknown_of(v);
    ds_text_puts(json, "\"type\": \"BPE\", \"fuse_unk\": true, ");
    if (unknown) {
        ds_text_puts(json, "\"unk_token\": ");
        ds_json_put_string(json, unknown->bytes, unknown->length);
        ds_text_puts(json, ", ");
    }
    ds_text_puts(json, "\"vocab\": {");
    for (size_t i = 0; i < v->n; i++) {
        ds_text_puts(json, i ? ",\n" : "\n");
        ds_json_put_string(json, v->pieces[i].bytes, v->pieces[i].length);
        ds_text_printf(json, ": %d", v->pieces[i].id);
    }
    ds_text_puts(json, "}, \"merges\": [");
    DS_TRY(ds_scored_put_merges(v->pieces, v->n, json));
    ds_text_puts(json, "]");
    return DS_OK;
}

static ds_status check_pieces(const ds_scored_vocab *v, const char *path) {
    for (size_t i = 0; i < v->n; i++) {
        const ds_scored_piece *p = &v->pieces[i];
        if (p->score != p->score || p->score < -1e30f || p->score > 1e30f)
            return ds_fail(DS_CORRUPT, "%s: the score of piece %zu is no number", path, i);
        if (memchr(p->bytes, 0, p->length) || ds_utf8_valid(p->bytes, p->length) != p->length)
            return ds_fail(DS_CORRUPT, "%s: piece %zu is no UTF-8", path, i);
    }
    if (v->charsmap_size > INT32_MAX / 2)
        return ds_fail(DS_UNSUPPORTED, "%s: a table of characters of %zu bytes", path,
                       v->charsmap_size);
    return DS_OK;
}

static bool mark_of(const ds_scored_vocab *v, int32_t id, const char **name, size_t *length) {
    if (id < 0 || (size_t)id >= v->n)
        return false;
    *name = v->pieces[id].bytes;
    *length = v->pieces[id].length;
    return true;
}

ds_status ds_scored_put_json(ds_scored_vocab *v, const char *path, ds_text *json) {
    const char *begin = NULL, *end = NULL;
    size_t n_begin = 0, n_end = 0;
    DS_TRY(check_pieces(v, path));
    ds_text_puts(json, "{\"version\": \"1.0\", ");
    put_added(v, json);
    DS_TRY(put_normaliser(v, json));
    if (mark_of(v, v->begin, &begin, &n_begin) + mark_of(v, v->end, &end, &n_end) > 0)
        ds_json_put_marks(json, begin, n_begin, end, n_end);
    put_decoder(v, json);
    ds_text_printf(json, "\"model\": {\"byte_fallback\": %s, ", v->byte_pieces ? "true" : "false");
    if (v->is_unigram)
        put_unigram(v, json);
    else
        DS_TRY(put_bpe(v, json));
    ds_text_puts(json, "}}\n");
    return json->poisoned ? DS_OUT_OF_MEMORY : DS_OK;
}
