# One static library a folder of src/. Position independent, because the preload library is made of some of them.
function(vmsgr_module name)
  cmake_parse_arguments(M "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(vmsgr_${name} STATIC ${M_SOURCES})
  set_target_properties(vmsgr_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)
  target_include_directories(vmsgr_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src ${VMSGR_INCLUDE_DIRS})
  target_link_libraries(vmsgr_${name} PUBLIC ${M_DEPENDS})
endfunction()

# A module of the daemon uses the headers that src/ssx has compiled.
function(vmsgr_use_seastar_headers name)
  target_precompile_headers(vmsgr_${name} REUSE_FROM vmsgr_ssx)
endfunction()

# One test binary a folder: unit_<name>, run by ctest; `unit_tests` builds them all.
function(vmsgr_unit_test name)
  cmake_parse_arguments(T "" "" "SOURCES;DEPENDS" ${ARGN})
  find_package(GTest REQUIRED)
  add_executable(unit_${name} ${T_SOURCES})
  if(NOT TARGET unit_tests)
    add_custom_target(unit_tests)
  endif()
  add_dependencies(unit_tests unit_${name})
  target_link_libraries(unit_${name} PRIVATE ${T_DEPENDS} GTest::gtest_main Threads::Threads)
  add_test(NAME unit_${name} COMMAND unit_${name})
  set_tests_properties(unit_${name} PROPERTIES TIMEOUT 200)
endfunction()
