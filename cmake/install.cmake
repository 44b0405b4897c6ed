# `cmake --install`: library, headers, tools, and the files by which other builds find them.
include(CMakePackageConfigHelpers)
install(TARGETS deepseek EXPORT deepseekTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/deepseek DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(DIRECTORY configs DESTINATION ${CMAKE_INSTALL_DATADIR}/deepseek)
install(EXPORT deepseekTargets NAMESPACE deepseek:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/deepseek)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/deepseekConfigVersion.cmake COMPATIBILITY SameMinorVersion)
file(WRITE ${CMAKE_BINARY_DIR}/deepseekConfig.cmake
     "include(\"\${CMAKE_CURRENT_LIST_DIR}/deepseekTargets.cmake\")\n")
install(FILES ${CMAKE_BINARY_DIR}/deepseekConfig.cmake ${CMAKE_BINARY_DIR}/deepseekConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/deepseek)
# relative to itself: `cmake --install --prefix` and moving the tree afterwards keep it true
set(pc_folder ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH DS_PC_TO_PREFIX ${pc_folder} ${CMAKE_INSTALL_PREFIX})
file(RELATIVE_PATH DS_PC_TO_INCLUDE ${pc_folder} ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(cmake/deepseek.pc.in ${CMAKE_BINARY_DIR}/deepseek.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/deepseek.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
# the unit names the program where it is installed; an example of its settings lies with the configs
set(BINDIR ${CMAKE_INSTALL_FULL_BINDIR})
configure_file(deploy/systemd/deepseek-serve.service ${CMAKE_BINARY_DIR}/deepseek-serve.service @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/deepseek-serve.service DESTINATION lib/systemd/system)
install(FILES deploy/systemd/deepseek-serve.default DESTINATION ${CMAKE_INSTALL_DATADIR}/deepseek)
