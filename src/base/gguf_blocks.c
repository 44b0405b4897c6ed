/* The element types of GGUF files. A quantised tensor is a row of blocks: a few bytes of scales and
 * then small integers. The layouts are those of ggml-common.h (github.com/ggml-org/ggml); each
 * function below turns one block into floats. "d" is a block's scale, "m" its offset; the types
 * whose names end in K have 256 elements with a second, coarser scale for each 16 or 32 of them. */
#include <string.h>

#include "base/alloc.h"
#include "base/error.h"
#include "base/gguf.h"
#include "base/half.h"
#include "base/text.h"

enum { SUPER = 256, LARGEST_BLOCK = 256 };

static float half_at(const unsigned char *at) {
    uint16_t h;
    memcpy(&h, at, sizeof h);
    return ds_f16_to_f32(h);
}

static void decode_f32(const unsigned char *b, float *out) {
    memcpy(out, b, sizeof *out);
}

static void decode_f16(const unsigned char *b, float *out) {
    *out = half_at(b);
}

static void decode_bf16(const unsigned char *b, float *out) {
    uint16_t h;
    memcpy(&h, b, sizeof h);
    *out = ds_bf16_to_f32(h);
}

/* ---- 32 elements ----------------------------------------------------------------------------- */

static void decode_q8_0(const unsigned char *b, float *out) {
    const float d = half_at(b);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)(int8_t)b[2 + i];
}

/* Four bits each: the low halves of 16 bytes, then the high ones. */
static void decode_q4_0(const unsigned char *b, float *out) {
    const float d = half_at(b);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((b[2 + i] & 15) - 8);
        out[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void decode_q4_1(const unsigned char *b, float *out) {
    const float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(b[4 + i] & 15) + m;
        out[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* Element i of 32 whose four low bits are as above and whose fifth is bit i of four bytes. */
static int five_bits(const unsigned char *high, const unsigned char *low, int i) {
    const int nibble = i < 16 ? low[i] & 15 : low[i - 16] >> 4;
    return nibble | (high[i / 8] >> (i % 8) & 1) << 4;
}

static void decode_q5_0(const unsigned char *b, float *out) {
    const float d = half_at(b);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)(five_bits(b + 2, b + 6, i) - 16);
}

static void decode_q5_1(const unsigned char *b, float *out) {
    const float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)five_bits(b + 4, b + 8, i) + m;
}

/* ---- 256 elements ---------------------------------------------------------------------------- */

static void decode_q2_k(const unsigned char *b, float *out) {
    const unsigned char *scales = b, *quants = b + 16;
    const float d = half_at(b + 80), m = half_at(b + 82);
    for (int i = 0; i < SUPER; i++) {
        const int half = i / 128, shift = i % 128 / 32 * 2, place = i % 32;
        const int scale = scales[i / 16];
        const int q = quants[32 * half + place] >> shift & 3;
        out[i] = d * (float)(scale & 15) * (float)q - m * (float)(scale >> 4);
    }
}

/* Scale i of 16: six bits, four of them and then two of them packed together. */
static int q3_scale(const unsigned char *s, int i) {
    const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
    return (low | (s[8 + i % 4] >> (2 * (i / 4)) & 3) << 4) - 32;
}

static void decode_q3_k(const unsigned char *b, float *out) {
    const unsigned char *high = b, *quants = b + 32, *scales = b + 96;
    const float d = half_at(b + 108);
    for (int i = 0; i < SUPER; i++) {
        const int half = i / 128, shift = i % 128 / 32 * 2, place = i % 32;
        const int q = quants[32 * half + place] >> shift & 3;
        const int has_high = high[place] >> (i / 32) & 1;
        out[i] = d * (float)q3_scale(scales, i / 16) * (float)(q - (has_high ? 0 : 4));
    }
}

/* Scale and offset i of 8, six bits each, in 12 bytes. */
static void q4_scale(const unsigned char *s, int i, int *scale, int *offset) {
    if (i < 4) {
        *scale = s[i] & 63;
        *offset = s[i + 4] & 63;
    } else {
        *scale = (s[i + 4] & 15) | (s[i - 4] >> 6) << 4;
        *offset = s[i + 4] >> 4 | (s[i] >> 6) << 4;
    }
}

/* high: where the fifth bits lie, NULL for elements of four bits. */
static void decode_q45_k(const unsigned char *b, const unsigned char *high,
                         const unsigned char *quants, float *out) {
    const float d = half_at(b), m = half_at(b + 2);
    for (int group = 0; group < 8; group++) {
        int scale = 0, offset = 0;
        q4_scale(b + 4, group, &scale, &offset);
        const float dg = d * (float)scale, mg = m * (float)offset;
        for (int i = 0; i < 32; i++) {
            const int byte = quants[32 * (group / 2) + i];
            int q = group % 2 ? byte >> 4 : byte & 15;
            q |= high ? (high[i] >> group & 1) << 4 : 0;
            out[32 * group + i] = dg * (float)q - mg;
        }
    }
}

static void decode_q4_k(const unsigned char *b, float *out) {
    decode_q45_k(b, NULL, b + 16, out);
}

static void decode_q5_k(const unsigned char *b, float *out) {
    decode_q45_k(b, b + 16, b + 48, out);
}

static void decode_q6_k(const unsigned char *b, float *out) {
    const unsigned char *low = b, *high = b + 128, *scales = b + 192;
    const float d = half_at(b + 208);
    for (int half = 0; half < 2; half++)
        for (int quarter = 0; quarter < 4; quarter++)
            for (int i = 0; i < 32; i++) {
                const int byte = low[64 * half + 32 * (quarter % 2) + i];
                const int nibble = quarter < 2 ? byte & 15 : byte >> 4;
                const int q = nibble | (high[32 * half + i] >> (2 * quarter) & 3) << 4;
                const int place = 128 * half + 32 * quarter + i;
                out[place] = d * (float)(int8_t)scales[place / 16] * (float)(q - 32);
            }
}

/* ---- the table ------------------------------------------------------------------------------- */

static const ds_gguf_type types[] = {
    {0, "F32", 1, 4, decode_f32},
    {1, "F16", 1, 2, decode_f16},
    {2, "Q4_0", 32, 18, decode_q4_0},
    {3, "Q4_1", 32, 20, decode_q4_1},
    {6, "Q5_0", 32, 22, decode_q5_0},
    {7, "Q5_1", 32, 24, decode_q5_1},
    {8, "Q8_0", 32, 34, decode_q8_0},
    {9, "Q8_1", 32, 36, NULL},
    {10, "Q2_K", 256, 84, decode_q2_k},
    {11, "Q3_K", 256, 110, decode_q3_k},
    {12, "Q4_K", 256, 144, decode_q4_k},
    {13, "Q5_K", 256, 176, decode_q5_k},
    {14, "Q6_K", 256, 210, decode_q6_k},
    {15, "Q8_K", 256, 292, NULL},
    {16, "IQ2_XXS", 256, 66, NULL},
    {17, "IQ2_XS", 256, 74, NULL},
    {18, "IQ3_XXS", 256, 98, NULL},
    {19, "IQ1_S", 256, 50, NULL},
    {20, "IQ4_NL", 32, 18, NULL},
    {21, "IQ3_S", 256, 110, NULL},
    {22, "IQ2_S", 256, 82, NULL},
    {23, "IQ4_XS", 256, 136, NULL},
    {24, "I8", 1, 1, NULL},
    {25, "I16", 1, 2, NULL},
    {26, "I32", 1, 4, NULL},
    {27, "I64", 1, 8, NULL},
    {28, "F64", 1, 8, NULL},
    {29, "IQ1_M", 256, 56, NULL},
    {30, "BF16", 1, 2, decode_bf16},
    {34, "TQ1_0", 256, 54, NULL},
    {35, "TQ2_0", 256, 66, NULL},
    {39, "MXFP4", 32, 17, NULL},
};
enum { N_TYPES = sizeof types / sizeof *types };

const ds_gguf_type *ds_gguf_type_of(uint32_t id) {
    for (int i = 0; i < N_TYPES; i++)
        if (types[i].id == id)
            return &types[i];
    return NULL;
}

static ds_status refuse_type(const ds_gguf_tensor *t) {
    ds_text known = {0};
    for (int i = 0; i < N_TYPES; i++)
        if (types[i].decode)
            ds_text_printf(&known, "%s%s", i ? ", " : "", types[i].name);
    const ds_status status =
        ds_fail(DS_UNSUPPORTED, "tensor \"%s\" is of the type %s; those that can be read are %s",
                t->name, t->type->name, known.data ? known.data : "");
    ds_text_clear(&known);
    return status;
}

static void narrow(const float *from, size_t n, ds_dtype to, uint16_t *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = to == DS_BF16 ? ds_f32_to_bf16(from[i]) : ds_f32_to_f16(from[i]);
}

ds_status ds_gguf_read(const ds_gguf_tensor *t, ds_dtype to, void *out) {
    if (!t->type->decode)
        return refuse_type(t);
    if (to != DS_F32 && to != DS_BF16 && to != DS_F16)
        return ds_fail(DS_INVALID, "tensor \"%s\" cannot be read as %s", t->name,
                       ds_dtype_name(to));
    const ds_gguf_type *type = t->type;
    const int64_t n = (int64_t)(t->size_bytes / type->block_bytes);
    if (type->id == 0 && to == DS_F32) {
        memcpy(out, t->data, t->size_bytes);
        return DS_OK;
    }
#pragma omp parallel for schedule(static) if (n >= 4096)
    for (int64_t i = 0; i < n; i++) {
        float values[LARGEST_BLOCK];
        const unsigned char *block = t->data + (size_t)i * type->block_bytes;
        const size_t place = (size_t)i * type->block;
        if (to == DS_F32) {
            type->decode(block, (float *)out + place);
        } else {
            type->decode(block, values);
            narrow(values, type->block, to, (uint16_t *)out + place);
        }
    }
    return DS_OK;
}
