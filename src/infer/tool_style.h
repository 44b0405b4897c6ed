/* A notation of tools: what chat_tools.c writes by, and tool_reader.c reads by. */
#ifndef DS_INFER_TOOL_STYLE_H
#define DS_INFER_TOOL_STYLE_H

#include "infer/chat_tools.h"

struct ds_tool_style {
    const char *opening;                   /* begins a call, at the end of a prompt */
    const char *marks[DS_MOST_TOOL_MARKS]; /* that may be special tokens */
    const char *begin; /* begins calls in an answer; NULL: they are all of an answer */
    const char *skips[DS_MOST_TOOL_MARKS]; /* stand before, between and after calls */
    const char *name_end;  /* a call is name, this, arguments; NULL: an object of both */
    const char *arguments; /* their key in the object */
    bool one_call;         /* a message has one at most */
    bool call_within;      /* calls end the turn of the assistant's words */
    bool answer_within;    /* after a result there is no beginning of an answer */
    void (*put_before_system)(ds_chat_rendering *r);
    void (*put_system)(ds_chat_rendering *r, bool has_system);
    void (*put_before_user)(ds_chat_rendering *r, size_t i);
    void (*put_within_user)(ds_chat_rendering *r, size_t i);
    void (*put_calls)(ds_chat_rendering *r, size_t i, const char *words);
    void (*put_result)(ds_chat_rendering *r, size_t i);
};

#endif
