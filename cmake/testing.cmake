# What test and benchmark programs share.
include(GoogleTest)

# Test programs say what they hold when ctest starts, not while they are linked: a program that a sanitizer keeps
# from starting is then a failed test, not a failed build.
set(CMAKE_GTEST_DISCOVER_TESTS_DISCOVERY_MODE PRE_TEST)

# betterbox_add_if_there(FOLDER...): subfolders that have a CMakeLists.txt.
function(betterbox_add_if_there)
  foreach(folder IN LISTS ARGN)
    if(EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/CMakeLists.txt")
      add_subdirectory(${folder})
    endif()
  endforeach()
endfunction()

# betterbox_finish_tests(FOLDER): for every target of a folder and those below. The headers that all tests begin with
# are compiled once per program with several sources.
function(betterbox_finish_tests folder)
  get_property(targets DIRECTORY "${folder}" PROPERTY BUILDSYSTEM_TARGETS)
  foreach(name IN LISTS targets)
    get_target_property(type ${name} TYPE)
    if(NOT type MATCHES "EXECUTABLE|STATIC_LIBRARY")
      continue()
    endif()
    # Each source by itself: they call their helpers alike.
    set_target_properties(${name} PROPERTIES BETTERBOX_TEST TRUE UNITY_BUILD OFF)
    # Little optimisation: it is the product that must be fast. (At -O3 GCC 12 also sees uninitialised vectors in
    # aggregates where there are none.)
    target_compile_options(${name} PRIVATE -O1 $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    get_target_property(sources ${name} SOURCES)
    list(LENGTH sources count)
    if(type STREQUAL "EXECUTABLE" AND count GREATER 3)
      target_precompile_headers(${name} PRIVATE <gtest/gtest.h> <gmock/gmock.h> <map> <optional> <set> <string>
        <thread> <variant> <vector> "${CMAKE_SOURCE_DIR}/runtime/messages.h" "${CMAKE_SOURCE_DIR}/runtime/page.h")
    endif()
  endforeach()
  get_property(folders DIRECTORY "${folder}" PROPERTY SUBDIRECTORIES)
  foreach(below IN LISTS folders)
    betterbox_finish_tests("${below}")
  endforeach()
endfunction()
