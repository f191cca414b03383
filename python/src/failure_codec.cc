// Failures: error and lost items to exceptions (betterbox._remote) and back (betterbox._slot.describe_error).
#include "python/src/item_bytes.h"
#include "python/src/object_codec.h"
#include "python/src/raised_error.h"

namespace betterbox {
namespace {

PyObject* no_failure() {
  PyErr_SetString(PyExc_ValueError,
                  "betterbox: a failure arrived that is none (a bug, or another version at the other end)");
  return nullptr;
}

PyObject* text_object(std::string_view text) {
  return PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace");
}

/// Calls a hook of betterbox._remote; its result must be an exception.
PyObject* call_remote_hook(const char* name, PyObject* args) {
  PyRef held(args);
  PyRef module(rest_if_ended([] { return PyImport_ImportModule("betterbox._remote"); }));
  if (!module || !held) return nullptr;
  PyRef hook(PyObject_GetAttrString(module.get(), name));
  return hook ? rest_if_ended([&] { return PyObject_CallObject(hook.get(), held.get()); }) : nullptr;
}

}  // namespace

PyObject* decode_failure(ItemBytes item, std::string_view method, Port port) {
  if (static_cast<ItemTag>(item[0]) == ItemTag::kError) {
    std::size_t at = 1;
    std::string_view type, message, traceback;
    if (!read_text(item, at, type) || !read_text(item, at, message) || !read_text(item, at, traceback))
      return no_failure();
    return call_remote_hook("rebuild_error", Py_BuildValue("(NNNy#)", text_object(type), text_object(message),
                                                           text_object(traceback),
                                                           reinterpret_cast<const char*>(item.data()) + at,
                                                           static_cast<Py_ssize_t>(item.size() - at)));
  }
  const auto lost = parse_lost_item(item);
  if (!lost) return no_failure();
  return call_remote_hook(
      "lost_error",
      Py_BuildValue("(iKiiIKNNNNi)", static_cast<int>(lost->code),
                    static_cast<unsigned long long>(lost->index), lost->signal, lost->exit_code,
                    static_cast<unsigned>(lost->pid), static_cast<unsigned long long>(lost->peak_kib),
                    text_object(lost->host), text_object(lost->stderr_tail), text_object(lost->detail),
                    text_object(method), static_cast<int>(port.value)));
}

std::string encode_current_error() {
  const PyRef error = take_raised_error();
  PyObject* value = error.get();
  std::string item;
  item.push_back(static_cast<char>(ItemTag::kError));
  PyRef module(PyImport_ImportModule("betterbox._slot"));
  PyRef fields(
      module ? PyObject_CallMethod(module.get(), "describe_error", "O", value != nullptr ? value : Py_None)
             : nullptr);
  const char *name = nullptr, *message = nullptr, *trace = nullptr, *pickle = nullptr;
  Py_ssize_t name_size = 0, message_size = 0, trace_size = 0, pickle_size = 0;
  if (!fields || !PyArg_ParseTuple(fields.get(), "s#s#s#y#", &name, &name_size, &message, &message_size,
                                   &trace, &trace_size, &pickle, &pickle_size)) {
    PyErr_Clear();
    append_text(item, value != nullptr ? Py_TYPE(value)->tp_name : "Exception");
    append_text(item, "an error that cannot be described");
    append_text(item, "");
    return item;
  }
  append_text(item, {name, static_cast<std::size_t>(name_size)});
  append_text(item, {message, static_cast<std::size_t>(message_size)});
  append_text(item, {trace, static_cast<std::size_t>(trace_size)});
  item.append(pickle, static_cast<std::size_t>(pickle_size));
  return item;
}

}  // namespace betterbox
