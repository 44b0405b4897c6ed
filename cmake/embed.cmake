# cmake -DINPUT=FILE -DOUTPUT=FILE.c -DNAME=name -P embed.cmake: a file's bytes as
# `const unsigned char name[]` and `const size_t name_size`.
file(READ ${INPUT} bytes HEX)
string(LENGTH "${bytes}" digits)
math(EXPR size "${digits} / 2")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
file(WRITE ${OUTPUT} "#include <stddef.h>\n#include \"serve/page.h\"\n"
     "const size_t ${NAME}_size = ${size};\nconst unsigned char ${NAME}[] = {${bytes}};\n")
