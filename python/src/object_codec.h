// Python objects to items (runtime/page.h) and back. Exact int, float, bool, None, str, bytes and plain
// C-ordered ndarrays take a raw path; everything else is a pickle made by betterbox._pickling.
//
// All functions want the GIL. Those that return false or null have set a Python error.
#pragma once

#include <Python.h>

#include <optional>
#include <string>
#include <string_view>

#include "runtime/limits.h"
#include "runtime/page.h"
#include "runtime/shared_items.h"
#include "runtime/strip.h"

namespace betterbox {

/// Appends the item for `object`. `path` names it in a SerializationError ("args[0]"; of a tuple with names of its own:
/// "args|kwargs"). `large`: where large buffers go;
/// null: into the item.
bool encode_item(PyObject* object, std::string_view path, std::string& out, LargeBuffers* large = nullptr);

/// A new reference to the object in a (value) item. Errors and lost items: decode_failure.
PyObject* decode_item(ItemBytes item);

/// The word that stands for a short value in a strip or a column. Result: false, and no Python error, for all else.
bool short_value(PyObject* object, ShortValue& value);

/// Values [begin, end) of a column as new references, from place `at` of a new list on. Result: false with an error.
bool decode_column(const PageView& column, std::uint64_t begin, std::uint64_t end, PyObject* list,
                   Py_ssize_t at);

/// Item i of a page, also of one that describes integers.
PyObject* decode_page_item(const PageView& page, std::uint64_t i);

bool is_failure(ItemBytes item);

/// A new reference to the exception that an error or lost item stands for. `method` and `port` say what was called.
PyObject* decode_failure(ItemBytes item, std::string_view method, Port port);

/// The error item for the Python error that is set (which is cleared). Never fails.
std::string encode_current_error();

/// Appends the item (tag kArguments) for the arguments of a submission if all are simple. Result: false, and no Python
/// error, if some need another way (a pickle, or they are promises or spread).
bool encode_simple_arguments(PyObject* args, PyObject* kwargs, std::string& out);

/// Arguments of a direct call as a page. Simple values one by one, anything else as one pickle of both.
std::optional<Frame> encode_arguments(PyObject* args, PyObject* kwargs, LargeBuffers* large = nullptr);

/// The other way. On success `args` and `kwargs` (null if there are none) hold new references.
bool decode_arguments(std::span<const std::byte> page, PyObject*& args, PyObject*& kwargs);

}  // namespace betterbox
