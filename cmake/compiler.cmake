# Warnings, sanitizers and coverage, for everything that is built.
add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
                    -Wstrict-prototypes -Wmissing-prototypes -Wvla)
if(DS_WERROR)
    add_compile_options(-Werror)
endif()
# Floating point: contraction to FMA is wanted, reassociation only where a kernel asks for it.
add_compile_options(-ffp-contract=fast -fno-math-errno)
if(DS_SANITIZE)
    add_compile_options(-fsanitize=${DS_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    add_compile_options(-UNDEBUG) # an optimised build that looks for faults keeps its assertions
    add_link_options(-fsanitize=${DS_SANITIZE})
endif()
if(DS_COVERAGE)
    add_compile_options(--coverage -fprofile-update=atomic) # threads count too
    add_link_options(--coverage)
endif()
# Fuzzers need coverage feedback from the library, not from their own file alone.
if(DS_BUILD_FUZZERS)
    add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    # paths are cut by snprintf on purpose and then not found; each cut is checked where it matters
    add_compile_options(-Wno-format-truncation)
endif()
if(CMAKE_C_COMPILER_ID MATCHES "Clang")
    # a loop that stays scalar in an instrumented or baseline build is slower, not wrong
    add_compile_options(-Wno-pass-failed)
endif()
