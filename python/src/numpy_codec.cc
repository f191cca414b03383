#include "python/src/numpy_codec.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

#include "python/src/raised_error.h"
#include "runtime/limits.h"

namespace betterbox {
namespace {

/// numpy.`name` if numpy has been imported, else null. Borrowed.
PyObject* numpy_if_there(const char* name) {
  PyObject* numpy = PyDict_GetItemString(PyImport_GetModuleDict(), "numpy");
  if (numpy == nullptr) return nullptr;
  PyRef found(PyObject_GetAttrString(numpy, name));
  if (!found) PyErr_Clear();
  return found.release();  // kept for good: who asks does so once
}

PyTypeObject* generic_type() {
  static PyObject* type = nullptr;
  if (type == nullptr) type = numpy_if_there("generic");
  return reinterpret_cast<PyTypeObject*>(type);
}

PyObject* no_column() {
  PyErr_SetString(PyExc_ValueError, "betterbox: a column arrived that is none");
  return nullptr;
}

std::string text_of(PyObject* object, const char* attribute) {
  PyRef value(PyObject_GetAttrString(object, attribute));
  Py_ssize_t size = 0;
  const char* text =
      value && PyUnicode_Check(value.get()) ? PyUnicode_AsUTF8AndSize(value.get(), &size) : nullptr;
  PyErr_Clear();
  return text == nullptr ? std::string() : std::string(text, static_cast<std::size_t>(size));
}

/// The dtype's `.str` if that says all about it, and values are plain numbers as this machine writes them; else empty.
std::string plain_dtype(PyObject* dtype) {
  const std::string kind = text_of(dtype, "kind");
  const std::string text = text_of(dtype, "str");
  if (kind.size() != 1 || std::strchr("biufc", kind[0]) == nullptr || text.size() < 3 || text[0] == '>')
    return {};
  PyRef metadata(PyObject_GetAttrString(dtype, "metadata"));
  static PyObject* make = nullptr;
  if (make == nullptr) make = numpy_if_there("dtype");
  PyRef again(make != nullptr ? PyObject_CallFunction(make, "s", text.c_str()) : nullptr);
  PyRef mine(PyObject_GetAttrString(dtype, "type"));
  PyRef its(again ? PyObject_GetAttrString(again.get(), "type") : nullptr);
  const bool same = metadata && metadata.get() == Py_None && mine && its && mine.get() == its.get();
  PyErr_Clear();
  return same ? text : std::string();
}

/// A new array and its bytes filled from `data`, whose size must be just right.
PyObject* filled_array(PyObject* shape, const std::string& dtype, std::span<const std::byte> data) {
  PyRef numpy(PyImport_ImportModule("numpy"));
  PyRef array(numpy ? PyObject_CallMethod(numpy.get(), "empty", "Os", shape, dtype.c_str()) : nullptr);
  if (!array) return nullptr;
  Py_buffer buffer;
  if (PyObject_GetBuffer(array.get(), &buffer, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0) return nullptr;
  const bool fits = static_cast<std::size_t>(buffer.len) == data.size();
  if (fits) std::memcpy(buffer.buf, data.data(), data.size());
  PyBuffer_Release(&buffer);
  return fits ? array.release() : no_column();
}

/// True for the .str of a number: nothing that numpy would take for a structure.
bool is_number(std::string_view dtype) {
  return dtype.size() >= 3 && dtype.size() <= 4 && std::strchr("<|", dtype[0]) != nullptr &&
         std::strchr("biufc", dtype[1]) != nullptr && dtype[2] >= '1' && dtype[2] <= '9';
}

}  // namespace

PyTypeObject* ndarray_type() {
  static PyObject* type = nullptr;
  if (type == nullptr) type = numpy_if_there("ndarray");
  return reinterpret_cast<PyTypeObject*>(type);
}

bool array_columns(PyObject* array, const std::function<void(Frame page, std::uint64_t count)>& give) {
  if (ndarray_type() == nullptr || Py_TYPE(array) != ndarray_type()) return false;
  PyRef dtype(PyObject_GetAttrString(array, "dtype"));
  const std::string text = dtype ? plain_dtype(dtype.get()) : std::string();
  Py_buffer buffer;
  if (text.empty() || !is_number(text)) return PyErr_Clear(), false;
  PyRef whole(PyRef::borrow(array));
  if (PyObject_GetBuffer(array, &buffer, PyBUF_ND | PyBUF_C_CONTIGUOUS) < 0) {
    PyErr_Clear();
    whole = PyRef(PyObject_CallMethod(array, "copy", "s", "C"));
    if (!whole || PyObject_GetBuffer(whole.get(), &buffer, PyBUF_ND | PyBUF_C_CONTIGUOUS) < 0)
      return PyErr_Clear(), false;
  }
  const auto count = buffer.ndim > 0 ? static_cast<std::uint64_t>(buffer.shape[0]) : 0;
  const std::uint64_t size = count == 0 ? 0 : static_cast<std::uint64_t>(buffer.len) / count;
  const bool plain = size > 0 && size < kSegmentMinBytes;
  if (plain) {
    const ColumnType type = buffer.ndim == 1 ? ColumnType::kScalars : ColumnType::kArrays;
    std::string description(1, static_cast<char>(text.size()));
    description += text;
    if (type == ColumnType::kArrays) {
      description.push_back(static_cast<char>(buffer.ndim - 1));
      for (int i = 1; i < buffer.ndim; ++i) {
        const auto extent = static_cast<std::uint64_t>(buffer.shape[i]);
        description.append(reinterpret_cast<const char*>(&extent), sizeof extent);
      }
    }
    const std::uint64_t step = std::max<std::uint64_t>(1, kPageBytes / size);
    for (std::uint64_t first = 0; first < count; first += step) {
      const std::uint64_t items = std::min(step, count - first);
      std::string page = column_header(type, static_cast<std::uint32_t>(items), size, description);
      page.append(static_cast<const char*>(buffer.buf) + first * size, items * size);
      give(Frame(std::move(page)), items);
    }
  }
  PyBuffer_Release(&buffer);
  return plain;
}

PyObject* column_array(const PageView& column) {
  const auto text = column.description();
  const bool rows = column.column_type() == ColumnType::kArrays;
  const std::size_t length = text.empty() ? 0 : std::to_integer<std::size_t>(text[0]);
  if (1 + length + (rows ? 1 : 0) > text.size()) return no_column();
  const std::string dtype(reinterpret_cast<const char*>(text.data()) + 1, length);
  const std::size_t dimensions = rows ? std::to_integer<std::size_t>(text[1 + length]) : 0;
  if (!is_number(dtype) || dimensions > 31 || (text.size() - 1 - length) / 8 < dimensions) return no_column();
  PyRef shape(PyTuple_New(static_cast<Py_ssize_t>(1 + dimensions)));
  if (!shape) return nullptr;
  PyTuple_SET_ITEM(shape.get(), 0, PyLong_FromUnsignedLongLong(column.count()));
  for (std::size_t i = 0; i < dimensions; ++i) {
    std::uint64_t extent = 0;
    if (2 + length + 8 * (i + 1) > text.size()) return no_column();
    std::memcpy(&extent, text.data() + 2 + length + 8 * i, sizeof extent);
    PyTuple_SET_ITEM(shape.get(), static_cast<Py_ssize_t>(1 + i), PyLong_FromUnsignedLongLong(extent));
  }
  return filled_array(shape.get(), dtype, column.values(0, column.count()));
}

PyObject* array_item(PyObject* array, std::uint64_t i, ColumnType type) {
  PyRef item(PySequence_GetItem(array, static_cast<Py_ssize_t>(i)));
  if (!item || type == ColumnType::kScalars) return item.release();
  return PyObject_CallMethod(item.get(), "copy", nullptr);
}

PyObject* decode_scalar(ItemBytes item) {
  const std::size_t length = item.size() < 2 ? 0 : std::to_integer<std::size_t>(item[1]);
  if (item.size() < 2 + length) return no_column();
  const std::string dtype(reinterpret_cast<const char*>(item.data()) + 2, length);
  if (!is_number(dtype)) return no_column();
  PyRef shape(Py_BuildValue("(i)", 1));
  PyRef array(shape ? filled_array(shape.get(), dtype, item.subspan(2 + length)) : nullptr);
  return array ? PySequence_GetItem(array.get(), 0) : nullptr;
}

namespace {

/// The .str of the dtype of these scalars, zero-padded; 0 if they take the other way.
std::uint64_t dtype_of(PyTypeObject* type) {
  static std::unordered_map<PyTypeObject*, std::uint64_t> known;  // of numpy's own types, which stay
  if (const auto found = known.find(type); found != known.end()) return found->second;
  if ((type->tp_flags & Py_TPFLAGS_HEAPTYPE) != 0) return 0;  // a user's, which may go
  PyRef error = take_raised_error();
  std::uint64_t packed = 0;
  PyRef numpy(PyImport_ImportModule("numpy"));
  PyRef dtype(numpy ? PyObject_CallMethod(numpy.get(), "dtype", "O", type) : nullptr);
  const std::string text = dtype ? plain_dtype(dtype.get()) : std::string();
  PyRef mine(dtype ? PyObject_GetAttrString(dtype.get(), "type") : nullptr);
  if (mine.get() == reinterpret_cast<PyObject*>(type) && is_number(text) && text.size() == 3 &&
      text[2] <= '8')
    std::memcpy(&packed, text.data(), text.size());
  raise_again(std::move(error));
  return known[type] = packed;
}

}  // namespace

bool scalar_word(PyObject* object, ShortValue& value) {
  PyTypeObject* generic = generic_type();
  if (generic == nullptr || PyType_IsSubtype(Py_TYPE(object), generic) == 0) return false;
  value.dtype = dtype_of(Py_TYPE(object));
  if (value.dtype == 0) return false;
  Py_buffer buffer;
  if (PyObject_GetBuffer(object, &buffer, PyBUF_SIMPLE) < 0) return PyErr_Clear(), false;
  value.type = ColumnType::kScalars;
  value.word = 0;
  const bool fits = static_cast<std::size_t>(buffer.len) == scalar_size(value.dtype);
  if (fits) std::memcpy(&value.word, buffer.buf, static_cast<std::size_t>(buffer.len));
  PyBuffer_Release(&buffer);
  return fits;
}

}  // namespace betterbox
