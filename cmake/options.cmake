# Compile options for every target of the project, in one interface target. Nothing global.
add_library(betterbox_options INTERFACE)
add_library(betterbox::options ALIAS betterbox_options)
target_compile_features(betterbox_options INTERFACE cxx_std_20)
target_compile_options(betterbox_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
  -Woverloaded-virtual -Wno-missing-field-initializers -Werror=return-type)
# GCC from 13 on sees uninitialised members of variants where there are none. Sanitizers watch for true ones.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  target_compile_options(betterbox_options INTERFACE -Wno-maybe-uninitialized)
endif()
target_include_directories(betterbox_options INTERFACE "${CMAKE_SOURCE_DIR}")
if(BETTERBOX_SANITIZE)
  # Test programs (BETTERBOX_TEST) are seen by AddressSanitizer, but not by UBSan, which doubles the time their
  # large bodies take to compile: it is the product that must be free of undefined behaviour.
  string(REPLACE ",undefined" "" sanitize_tests "${BETTERBOX_SANITIZE}")
  set(is_test "$<BOOL:$<TARGET_PROPERTY:BETTERBOX_TEST>>")
  target_compile_options(betterbox_options INTERFACE
    "$<${is_test}:-fsanitize=${sanitize_tests}>" "$<$<NOT:${is_test}>:-fsanitize=${BETTERBOX_SANITIZE}>"
    -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
  target_link_options(betterbox_options INTERFACE -fsanitize=${BETTERBOX_SANITIZE})
  if(BETTERBOX_SANITIZE MATCHES "undefined" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # A third of the time that UBSan takes to compile is checks of every pointer that is followed. AddressSanitizer
    # stops at a null pointer and beyond an object, too. (Fuzzing, with clang, has them all.)
    target_compile_options(betterbox_options INTERFACE
      "$<$<NOT:${is_test}>:-fno-sanitize=null,alignment,object-size,vptr,returns-nonnull-attribute,nonnull-attribute>")
  endif()
  if(BETTERBOX_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # ThreadSanitizer sees no fences. Ours order wake-ups only; data is published by release stores.
    target_compile_options(betterbox_options INTERFACE -Wno-tsan)
  endif()
endif()

# betterbox_core_library(NAME SOURCES...): a library without I/O: it links vocabulary and std only.
# Asking for more fails the configuration.
function(betterbox_core_library name)
  add_library(${name} STATIC ${ARGN})
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON BETTERBOX_CORE TRUE)
  target_link_libraries(${name} PUBLIC betterbox_options)
endfunction()

# Fails the configuration if a core target links (directly or not) anything but cores.
function(betterbox_check_core name)
  get_target_property(linked ${name} LINK_LIBRARIES)
  foreach(library IN LISTS linked)
    if(library MATCHES "^(betterbox_options|betterbox::options)$")
      continue()
    endif()
    if(NOT TARGET ${library})
      message(FATAL_ERROR "${name} is a core (no I/O) but links ${library}")
    endif()
    get_target_property(is_core ${library} BETTERBOX_CORE)
    if(NOT is_core)
      message(FATAL_ERROR "${name} is a core (no I/O) but links ${library}")
    endif()
  endforeach()
endfunction()

# betterbox_quick_to_compile(SOURCE...): code that runs once (options, start-up) and is large in its headers: not
# worth the optimiser's time.
function(betterbox_quick_to_compile)
  # zig (wheels) takes -O0 for a wish to have UBSan.
  set(options -O0)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND NOT BETTERBOX_SANITIZE)
    list(APPEND options -fno-sanitize=undefined)
  endif()
  set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "${options}")
endfunction()
