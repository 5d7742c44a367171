# Warnings are errors in every build of ours. Somebody with another compiler turns that off with
# -DCMAKE_COMPILE_WARNING_AS_ERROR=OFF.
if(NOT DEFINED CMAKE_COMPILE_WARNING_AS_ERROR)
  set(CMAKE_COMPILE_WARNING_AS_ERROR ON)
endif()
add_compile_options(-Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wno-missing-field-initializers
                    $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor> $<$<COMPILE_LANGUAGE:CXX>:-Woverloaded-virtual>
                    -fno-omit-frame-pointer -fno-strict-aliasing)

if(VMSGR_SANITIZE STREQUAL "undefined")
  # vptr needs RTTI of Seastar's own objects, which are not instrumented.
  add_compile_options(-fsanitize=undefined -fno-sanitize=vptr -fno-sanitize-recover=all)
  add_link_options(-fsanitize=undefined -fno-sanitize=vptr)
elseif(VMSGR_SANITIZE)
  add_compile_options(-fsanitize=${VMSGR_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${VMSGR_SANITIZE})
  if(VMSGR_SANITIZE STREQUAL "thread")
    # ThreadSanitizer does not see fences. What it checks here needs none of them: bytes are ordered by head and tail
    # alone, the fences order the wake-ups.
    add_compile_options(-Wno-tsan)
  endif()
endif()
