// What module.cc registers: one function per file of bindings.
#pragma once

#include "python/src/text_caster.h"

#include <pybind11/pybind11.h>

#include <string>

#include "runtime/time.h"

namespace betterbox {

/// A class of betterbox._errors, raised with the text of `error`.
void set_own_error(const char* type, const std::exception& error);

void register_bus(pybind11::module_& module);
void register_shared_buffers(pybind11::module_& module);
void register_items(pybind11::module_& module);
void register_process_state(pybind11::module_& module);
void register_call(pybind11::module_& module);
void register_client(pybind11::module_& module);
void register_submissions(pybind11::module_& module);
void register_rank(pybind11::module_& module);
void register_agent(pybind11::module_& module);

/// Raises betterbox._errors.NAME with this text.
[[noreturn]] void raise_error(const char* name, const std::string& text);

/// None is never; negative counts as now.
TimePoint deadline_after(pybind11::object timeout);

/// Passed to waits: runs Python's signal handlers; throws error_already_set.
void check_signals();

}  // namespace betterbox
