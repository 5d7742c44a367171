# `programs` builds what is installed, and no tests.
add_custom_target(programs DEPENDS vmsgr vmsgr_preload vmsgr_shared)
if(TARGET vmsgrd)
  # The shells' completions, from what the commands say with --help.
  find_program(PYTHON3 python3 REQUIRED)
  set(VMSGR_COMPLETION ${CMAKE_SOURCE_DIR}/packaging/completion)
  add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/completion/made
    COMMAND ${PYTHON3} ${VMSGR_COMPLETION}/completions.py ${CMAKE_BINARY_DIR}/bin ${CMAKE_BINARY_DIR}/completion
    COMMAND ${CMAKE_COMMAND} -E touch ${CMAKE_BINARY_DIR}/completion/made
    DEPENDS vmsgr vmsgrd ${VMSGR_COMPLETION}/completions.py ${VMSGR_COMPLETION}/bash.in VERBATIM)
  add_custom_target(completion ALL DEPENDS ${CMAKE_BINARY_DIR}/completion/made)
  add_dependencies(programs vmsgrd completion)
endif()

# What `cmake --install` puts where. The preload library lies where `vmsgr run` looks for it, beside the binary.
include(GNUInstallDirs)

include(CMakePackageConfigHelpers)

set_target_properties(vmsgr_shared PROPERTIES EXPORT_NAME vmsgr)
target_include_directories(vmsgr_shared INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
install(TARGETS vmsgr_shared EXPORT vmsgr COMPONENT libvmsgr LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
set(VMSGR_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/vmsgr)
install(EXPORT vmsgr FILE vmsgr-targets.cmake NAMESPACE vmsgr:: COMPONENT libvmsgr DESTINATION ${VMSGR_CMAKE_DIR})
configure_package_config_file(packaging/vmsgr-config.cmake.in ${CMAKE_BINARY_DIR}/vmsgr-config.cmake
                              INSTALL_DESTINATION ${VMSGR_CMAKE_DIR})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/vmsgr-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/vmsgr-config.cmake ${CMAKE_BINARY_DIR}/vmsgr-config-version.cmake COMPONENT libvmsgr
        DESTINATION ${VMSGR_CMAKE_DIR})
install(FILES include/vmsgr/vmsgr.h include/vmsgr/vmsgr.hh ${CMAKE_BINARY_DIR}/include/vmsgr/version.h COMPONENT libvmsgr
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/vmsgr)
# Relative to the .pc file, so that a tree installed anywhere works.
file(RELATIVE_PATH VMSGR_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" VMSGR_PC_TO_PREFIX "${VMSGR_PC_TO_PREFIX}")
configure_file(packaging/vmsgr.pc.in ${CMAKE_BINARY_DIR}/vmsgr.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/vmsgr.pc COMPONENT libvmsgr DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

foreach(page libvmsgr.3 vmsgr.1 vmsgrd.8)
  configure_file(man/${page} ${CMAKE_BINARY_DIR}/man/${page} @ONLY)
endforeach()
install(FILES ${CMAKE_BINARY_DIR}/man/libvmsgr.3 COMPONENT libvmsgr DESTINATION ${CMAKE_INSTALL_MANDIR}/man3)
install(TARGETS vmsgr_preload LIBRARY DESTINATION lib/vmsgr)
# Configured with prefix /usr, that is where Debian's Wireshark looks for Lua plugins.
install(FILES packaging/vmsgr.lua DESTINATION ${CMAKE_INSTALL_LIBDIR}/wireshark/plugins)
install(FILES ${CMAKE_BINARY_DIR}/man/vmsgr.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
if(TARGET vmsgrd)
  install(TARGETS vmsgrd RUNTIME DESTINATION ${CMAKE_INSTALL_SBINDIR})
  install(FILES ${CMAKE_BINARY_DIR}/man/vmsgrd.8 DESTINATION ${CMAKE_INSTALL_MANDIR}/man8)
  install(FILES packaging/vmsgrd.yaml packaging/prometheus/vmsgr.rules.yml packaging/grafana/vmsgr.json
          DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples)
  configure_file(packaging/vmsgrd.service.in ${CMAKE_BINARY_DIR}/vmsgrd.service @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/vmsgrd.service DESTINATION lib/systemd/system)
  install(FILES packaging/vmsgr.sysusers DESTINATION lib/sysusers.d RENAME vmsgr.conf)
  install(FILES packaging/vmsgr.tmpfiles DESTINATION lib/tmpfiles.d RENAME vmsgr.conf)
  install(FILES ${CMAKE_BINARY_DIR}/completion/bash/vmsgr ${CMAKE_BINARY_DIR}/completion/bash/vmsgrd
          DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
  install(FILES ${CMAKE_BINARY_DIR}/completion/zsh/_vmsgr ${CMAKE_BINARY_DIR}/completion/zsh/_vmsgrd
          DESTINATION ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
  install(FILES ${CMAKE_BINARY_DIR}/completion/fish/vmsgr.fish ${CMAKE_BINARY_DIR}/completion/fish/vmsgrd.fish
          DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
endif()
