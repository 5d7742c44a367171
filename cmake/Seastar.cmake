# Debian's seastar-dev is one static library, built for exactly one set of compiler and libraries.
# Anything else links, and then corrupts memory: refuse it here, with what to do.

if(CMAKE_BUILD_TYPE MATCHES "^(Debug|Sanitize|Dev)$")
  message(FATAL_ERROR "CMAKE_BUILD_TYPE=${CMAKE_BUILD_TYPE} changes Seastar's headers but not its library (other "
    "sizes of the same objects). Use --preset release or --preset debug.")
endif()
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU" OR CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
  message(FATAL_ERROR "Seastar needs g++ 14 or later, this is ${CMAKE_CXX_COMPILER_ID} "
    "${CMAKE_CXX_COMPILER_VERSION}. Run tools/setup.sh build, then cmake --preset release.")
endif()

if(POLICY CMP0167)   # CMake 3.30 and later: use its FindBoost all the same, as Seastar's own files do
  cmake_policy(SET CMP0167 OLD)
endif()
set(Boost_NO_WARN_NEW_VERSIONS 1)   # CMake 3.25 does not know 1.83 yet, and says so several times
find_package(Boost 1.83 EXACT QUIET COMPONENTS program_options thread filesystem unit_test_framework)
if(NOT Boost_FOUND)
  message(FATAL_ERROR "seastar-dev was built against Boost 1.83, which is not found. Run tools/setup.sh build.")
endif()
find_package(fmt 10 QUIET)
if(NOT fmt_FOUND OR NOT fmt_VERSION VERSION_LESS 11)
  message(FATAL_ERROR "seastar-dev was built against fmt 10, found '${fmt_VERSION}'. Run tools/setup.sh build.")
endif()
# The package warns when the compiler is not the GCC 15.2 that built it. GCC 14 has the same C++ ABI, and this pair is
# what we test, so the package is told what it wants to hear; built by any other compiler, it still warns.
# It calls itself 1.0 whatever its release is, so no version is asked for.
block(SCOPE_FOR VARIABLES)
  set(CMAKE_CXX_COMPILER_VERSION 15.2.0)
  find_package(Seastar REQUIRED)
endblock()
