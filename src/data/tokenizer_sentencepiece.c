/* SentencePiece's .model files (github.com/google/sentencepiece): a ModelProto of
 * sentencepiece_model.proto in the wire format of protocol buffers, which is simple enough to be
 * read here: fields one after another, each a key (number << 3 | wire type) and a value. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "data/scored_pieces.h"
#include "data/tokenizer.h"

typedef enum wire { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 } wire;

typedef struct field {
    uint32_t number;
    wire wire;
    uint64_t value;            /* of VARINT and the fixed ones, as bits */
    const unsigned char *data; /* of BYTES */
    size_t size;
} field;

typedef struct message {
    const unsigned char *at, *end;
} message;

static bool take_varint(message *m, uint64_t *out) {
    *out = 0;
    for (int shift = 0; shift < 64 && m->at < m->end; shift += 7) {
        const unsigned char byte = *m->at++;
        *out |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            return true;
    }
    return false;
}

static bool take_fixed(message *m, size_t n, uint64_t *out) {
    *out = 0;
    if ((size_t)(m->end - m->at) < n)
        return false;
    memcpy(out, m->at, n);
    m->at += n;
    return true;
}

/* The next field; false at the end and where the bytes are none, which *broken tells. */
static bool next_field(message *m, field *f, bool *broken) {
    uint64_t key = 0;
    *f = (field){0};
    if (m->at == m->end)
        return false;
    *broken = true;
    if (!take_varint(m, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX)
        return false;
    f->number = (uint32_t)(key >> 3);
    f->wire = (wire)(key & 7);
    if (f->wire == BYTES) {
        uint64_t size = 0;
        if (!take_varint(m, &size) || size > (uint64_t)(m->end - m->at))
            return false;
        f->data = m->at;
        f->size = (size_t)size;
        m->at += size;
    } else if (f->wire == VARINT) {
        if (!take_varint(m, &f->value))
            return false;
    } else if (f->wire != FIXED32 && f->wire != FIXED64) {
        return false;
    } else if (!take_fixed(m, f->wire == FIXED32 ? 4 : 8, &f->value)) {
        return false;
    }
    *broken = false;
    return true;
}

typedef struct reading {
    const char *path;
    ds_scored_vocab vocab;
    uint64_t model_type;
    bool escape, suffix; /* of spaces: written as a mark; the mark ends a word */
} reading;

static ds_status corrupt(const reading *r, const char *what) {
    return ds_fail(DS_CORRUPT, "%s: no SentencePiece model: %s is no message of its format",
                   r->path, what);
}

static ds_status read_piece(reading *r, const field *outer) {
    message m = {outer->data, outer->data + outer->size};
    const char *bytes = NULL;
    size_t length = 0;
    float score = 0;
    uint64_t kind = DS_PIECE_NORMAL;
    bool broken = false;
    for (field f; next_field(&m, &f, &broken);) {
        if (f.number == 1 && f.wire == BYTES) {
            bytes = (const char *)f.data;
            length = f.size;
        } else if (f.number == 2 && f.wire == FIXED32) {
            const uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, sizeof score);
        } else if (f.number == 3 && f.wire == VARINT) {
            kind = f.value;
        }
    }
    if (broken || !bytes || kind < DS_PIECE_NORMAL || kind > DS_PIECE_BYTE)
        return corrupt(r, "a piece");
    return ds_scored_add(&r->vocab, bytes, length, score, (ds_piece_kind)kind);
}

static ds_status read_trainer(reading *r, const field *outer) {
    message m = {outer->data, outer->data + outer->size};
    bool broken = false;
    for (field f; next_field(&m, &f, &broken);) {
        if (f.wire != VARINT)
            continue;
        if (f.number == 3)
            r->model_type = f.value;
        else if (f.number == 24)
            r->suffix = f.value != 0;
        else if (f.number == 35)
            r->vocab.byte_pieces = f.value != 0;
    }
    return broken ? corrupt(r, "its trainer_spec") : DS_OK;
}

static ds_status read_normaliser(reading *r, const field *outer) {
    message m = {outer->data, outer->data + outer->size};
    bool broken = false;
    for (field f; next_field(&m, &f, &broken);) {
        if (f.number == 2 && f.wire == BYTES) {
            r->vocab.charsmap = f.data;
            r->vocab.charsmap_size = f.size;
        } else if (f.number == 3 && f.wire == VARINT) {
            r->vocab.add_prefix = f.value != 0;
        } else if (f.number == 4 && f.wire == VARINT) {
            r->vocab.trim = f.value != 0;
        } else if (f.number == 5 && f.wire == VARINT) {
            r->escape = f.value != 0;
        }
    }
    return broken ? corrupt(r, "its normalizer_spec") : DS_OK;
}

static ds_status read_model(reading *r, const unsigned char *data, size_t size) {
    message m = {data, data + size};
    bool broken = false;
    for (field f; next_field(&m, &f, &broken);) {
        if (f.wire != BYTES)
            continue;
        if (f.number == 1)
            DS_TRY(read_piece(r, &f));
        else if (f.number == 2)
            DS_TRY(read_trainer(r, &f));
        else if (f.number == 3)
            DS_TRY(read_normaliser(r, &f));
    }
    if (broken || r->vocab.n == 0)
        return corrupt(r, r->vocab.n == 0 ? "the file" : "its end");
    if (r->model_type != 1 && r->model_type != 2)
        return ds_fail(DS_UNSUPPORTED,
                       "%s: models of words or characters are not supported; Unigram and BPE are",
                       r->path);
    if (r->suffix || !r->escape)
        return ds_fail(DS_UNSUPPORTED, "%s: %s is not supported", r->path,
                       r->suffix ? "treat_whitespace_as_suffix" : "escape_whitespaces: false");
    return DS_OK;
}

ds_status ds_tokenizer_json_from_sentencepiece(const char *path, const unsigned char *data,
                                               size_t size, ds_text *json) {
    reading r = {.path = path,
                 .vocab = {.add_prefix = true, .trim = true, .begin = -1, .end = -1},
                 .model_type = 1,
                 .escape = true};
    ds_status status = read_model(&r, data, size);
    r.vocab.is_unigram = r.model_type == 1;
    if (status == DS_OK)
        status = ds_scored_put_json(&r.vocab, path, json);
    free(r.vocab.pieces);
    return status;
}
