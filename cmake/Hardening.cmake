# What a distribution builds its daemons with. tests/component/test_hardening.py reads it back from every binary.
include(CheckPIESupported)
check_pie_supported()
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
add_compile_options(-fstack-protector-strong)
add_link_options(-Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack)
if(NOT VMSGR_SANITIZE)   # the sanitizers do not know the fortified functions, and check more than those do
  # One option, so that CMake does not take a later -U_FORTIFY_SOURCE of a target for a repetition.
  add_compile_options("SHELL:-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3")
endif()
