add_compile_options(-Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wno-missing-field-initializers
                    -fno-omit-frame-pointer -fno-strict-aliasing)
if(VMSGR_SANITIZE STREQUAL "undefined")
  # vptr needs RTTI of Seastar's own objects, which are not instrumented.
  add_compile_options(-fsanitize=undefined -fno-sanitize=vptr -fno-sanitize-recover=all)
  add_link_options(-fsanitize=undefined -fno-sanitize=vptr)
elseif(VMSGR_SANITIZE)
  add_compile_options(-fsanitize=${VMSGR_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${VMSGR_SANITIZE})
  if(VMSGR_SANITIZE STREQUAL "thread")
    # It does not see fences. What it is to check needs none of them: bytes are ordered by head and tail alone, the
    # fences order the wake-ups.
    add_compile_options(-Wno-tsan)
  endif()
endif()
