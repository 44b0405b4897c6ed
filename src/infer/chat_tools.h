/* Tools in conversations: how a family of templates tells the model of them, writes down calls and
 * results, and how calls are read out of an answer again. Four families of notations are known,
 * those of Qwen (Hermes), Llama 3.1, Mistral and DeepSeek. */
#ifndef DS_INFER_CHAT_TOOLS_H
#define DS_INFER_CHAT_TOOLS_H

#include "deepseek/inference.h"
#include "infer/chat_rendering.h"

typedef struct ds_tool_style ds_tool_style;

extern const ds_tool_style ds_tools_qwen2, ds_tools_qwen3, ds_tools_llama3, ds_tools_mistral3,
    ds_tools_nemo, ds_tools_deepseek3;

/* Whether the conversation itself can be written in this notation; DS_INVALID says why not. */
ds_status ds_tools_check(const ds_tool_style *style, const ds_chat *chat);

/* Where the system's words end: the tools, as this notation tells of them. has_system: whether
 * there are such words. */
void ds_tools_put_system(const ds_tool_style *style, ds_chat_rendering *r, bool has_system);
/* Before the system's words. */
void ds_tools_put_before_system(const ds_tool_style *style, ds_chat_rendering *r);
/* Before the i-th message, of the user: outside of its turn (Mistral), and within (Llama). */
void ds_tools_put_before_user(const ds_tool_style *style, ds_chat_rendering *r, size_t i);
void ds_tools_put_within_user(const ds_tool_style *style, ds_chat_rendering *r, size_t i);
/* The i-th message: calls of the assistant, or a result. Calls are a turn of their own, or end that
 * of the assistant's words (without thoughts; "": none). */
bool ds_tools_call_within(const ds_tool_style *style);
void ds_tools_put_calls(const ds_tool_style *style, ds_chat_rendering *r, size_t i,
                        const char *words);
void ds_tools_put_result(const ds_tool_style *style, ds_chat_rendering *r, size_t i);
/* Whether the answer goes on in the turn of the last result, without a beginning of its own. */
bool ds_tools_answer_within(const ds_tool_style *style);
/* Begins a call where the answer must be one. */
void ds_tools_put_opening(const ds_tool_style *style, ds_chat_rendering *r);

/* ---- answers --------------------------------------------------------------------------------- */

/* What follows such an opening: a call of one of the tools [array], with arguments that its schema
 * allows. DS_INVALID and DS_UNSUPPORTED name the tool and the keyword. */
ds_status ds_tools_grammar(const ds_tool_style *style, ds_model *model, const json_t *tools,
                           ds_grammar **out);

enum { DS_MOST_TOOL_MARKS = 8 };

/* Takes an answer apart, piece by piece, into words and calls. */
typedef struct ds_tool_reader {
    const ds_tool_style *style; /* NULL: all is words */
    bool within;                /* calls have begun */
    bool started;               /* there were words */
    ds_text held;               /* not decided yet */
    json_t *calls; /* array of {"name": …, "arguments": text}; those that are whole */
} ds_tool_reader;

/* opened: the prompt ended in an opening. */
ds_status ds_tool_reader_begin(ds_tool_reader *reader, const ds_tool_style *style, bool opened);
/* Takes UTF-8; appends the words that are certain to `words`. */
void ds_tool_reader_push(ds_tool_reader *reader, const char *text, size_t length, ds_text *words);
/* The answer ends: what was held is words, but for a call that lacks nothing. */
void ds_tool_reader_finish(ds_tool_reader *reader, ds_text *words);
void ds_tool_reader_clear(ds_tool_reader *reader);

/* The notation's mark with this id, which an answer's text would not show; NULL: it is none. */
const char *ds_tools_mark(const ds_tool_style *style, const ds_tokenizer *tokenizer, int32_t id);

#endif
