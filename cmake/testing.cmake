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
