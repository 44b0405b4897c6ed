# A manual page for each program, made from its --help (docs/man/make.sh); a program without a text
# in docs/man is an error. Programs for another processor cannot be asked.
if(NOT CMAKE_CROSSCOMPILING)
    file(GLOB programs CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tools/deepseek-*.c)
    set(man_pages)
    foreach(file ${programs})
        get_filename_component(name ${file} NAME_WE)
        set(text ${CMAKE_SOURCE_DIR}/docs/man/${name}.text)
        set(page ${CMAKE_BINARY_DIR}/man/${name}.1)
        add_custom_command(OUTPUT ${page}
            COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/man
            COMMAND ${CMAKE_SOURCE_DIR}/docs/man/make.sh $<TARGET_FILE:${name}> ${text} ${PROJECT_VERSION} > ${page}
            DEPENDS ${name} ${text} ${CMAKE_SOURCE_DIR}/docs/man/make.sh VERBATIM)
        list(APPEND man_pages ${page})
    endforeach()
    add_custom_target(man_pages ALL DEPENDS ${man_pages})
    install(FILES ${man_pages} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
endif()
