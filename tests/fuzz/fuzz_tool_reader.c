/* Any bytes as an answer that may call tools: byte by byte it says the same as in one piece, and
 * nothing of it that is no call is lost. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "infer/chat_tools.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *read_answer(const ds_tool_style *style, bool opened, const char *text, size_t size,
                         size_t piece, char **words) {
    ds_tool_reader reader;
    ds_text out = {0};
    if (ds_tool_reader_begin(&reader, style, opened) != DS_OK)
        __builtin_trap();
    for (size_t i = 0; i < size; i += piece)
        ds_tool_reader_push(&reader, text + i, size - i < piece ? size - i : piece, &out);
    ds_tool_reader_finish(&reader, &out);
    char *calls = json_dumps(reader.calls, 0);
    ds_tool_reader_clear(&reader);
    ds_text_puts(&out, "");
    *words = ds_text_take(&out);
    return calls;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const ds_tool_style *const styles[] = {&ds_tools_qwen2,  &ds_tools_qwen3,
                                                  &ds_tools_llama3, &ds_tools_mistral3,
                                                  &ds_tools_nemo,   &ds_tools_deepseek3};
    if (size == 0 || memchr(data, 0, size) || ds_utf8_valid((const char *)data, size) != size)
        return 0; /* answers are text */
    const ds_tool_style *style = styles[data[0] / 2 % 6];
    char *copy = malloc(size), *words[2] = {NULL};
    memcpy(copy, data + 1, size - 1);
    char *whole = read_answer(style, data[0] & 1, copy, size - 1, size, &words[0]);
    char *apart = read_answer(style, data[0] & 1, copy, size - 1, 1, &words[1]);
    if (!whole || !apart || strcmp(whole, apart) != 0 || strcmp(words[0], words[1]) != 0)
        __builtin_trap();
    free(words[0]);
    free(words[1]);
    free(whole);
    free(apart);
    free(copy);
    return 0;
}
