# Programs with an interpreter inside, where libpython is there to link: Python3_Development_FOUND says so.
find_package(Python3 3.10 REQUIRED COMPONENTS Interpreter Development.Module OPTIONAL_COMPONENTS Development.Embed)

# Python code runs as fast as in the interpreter itself only if libpython is linked as the interpreter has it: Debian's
# shared library is slower by a quarter. Its static library is not position-independent.
execute_process(
  COMMAND "${Python3_EXECUTABLE}" -c "import sysconfig as s; v = s.get_config_var; \
print(v('LIBPL') + '/' + v('LIBRARY'), *v('MODLIBS').split(), *v('LIBS').split(), *v('SYSLIBS').split(), sep=';', end='')"
  OUTPUT_VARIABLE static_python)
# Archives of its build folder, which its library has within.
list(FILTER static_python EXCLUDE REGEX "^Modules/")

list(GET static_python 0 static_libpython)
if(Python3_Development.Embed_FOUND AND EXISTS "${static_libpython}" AND NOT BETTERBOX_SANITIZE)
  # Debian 13's lacks a part of its own hashlib.
  include(CMakePushCheckState)
  include(CheckCXXSourceCompiles)
  cmake_push_check_state(RESET)
  set(CMAKE_REQUIRED_INCLUDES ${Python3_INCLUDE_DIRS})
  set(CMAKE_REQUIRED_LIBRARIES ${static_python})
  set(CMAKE_REQUIRED_LINK_OPTIONS -no-pie)
  check_cxx_source_compiles("#include <Python.h>
int main(int count, char** words) { return Py_BytesMain(count, words); }" BETTERBOX_STATIC_PYTHON_LINKS)
  cmake_pop_check_state()
endif()

# A program with Python in it. REQUIRES: Python3_Development.Embed_FOUND.
function(betterbox_embed_python program)
  if(BETTERBOX_STATIC_PYTHON_LINKS)
    target_include_directories(${program} SYSTEM PRIVATE ${Python3_INCLUDE_DIRS})
    target_link_libraries(${program} PRIVATE ${static_python})
    target_link_options(${program} PRIVATE -no-pie -Wl,--export-dynamic)
  else()
    target_link_libraries(${program} PRIVATE Python3::Python)
  endif()
  set_target_properties(${program} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/python/betterbox/_bin")
endfunction()
