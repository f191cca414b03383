#include "python/src/object_codec.h"

#include <bit>
#include <cstring>
#include <vector>

#include "python/src/item_bytes.h"
#include "python/src/numpy_codec.h"
#include "python/src/py_ref.h"
#include "python/src/shared_buffers.h"

namespace betterbox {
namespace {

constexpr std::size_t kAlignment = 64;

void append_tag(std::string& out, ItemTag tag) { out.push_back(static_cast<char>(tag)); }

/// Pads to a multiple of 64 from where the item began.
void align(std::string& out, std::size_t item_start) {
  const std::size_t past = (out.size() - item_start) % kAlignment;
  if (past != 0) out.append(kAlignment - past, '\0');
}

std::size_t aligned(std::size_t offset) { return (offset + kAlignment - 1) / kAlignment * kAlignment; }

PyObject* unreadable() {
  PyErr_SetString(PyExc_ValueError,
                  "betterbox: an item arrived that is no item (a bug, or another version at the other end)");
  return nullptr;
}

/// Result: 1 encoded, 0 not a plain array (nothing appended), -1 error.
int encode_array(PyObject* array, std::string& out, LargeBuffers* large) {
  PyRef dtype(PyObject_GetAttrString(array, "dtype"));
  if (!dtype) return -1;
  PyRef kind(PyObject_GetAttrString(dtype.get(), "kind"));
  PyRef name(PyObject_GetAttrString(dtype.get(), "str"));
  if (!kind || !name) return -1;
  const char* kind_text = PyUnicode_AsUTF8(kind.get());
  const char* name_text = PyUnicode_AsUTF8(name.get());
  if (kind_text == nullptr || name_text == nullptr) return -1;
  if (std::strchr("biufc", kind_text[0]) == nullptr) return 0;
  Py_buffer buffer;
  if (PyObject_GetBuffer(array, &buffer, PyBUF_ND | PyBUF_C_CONTIGUOUS) < 0) {
    PyErr_Clear();  // not contiguous: the pickle keeps its order
    return 0;
  }
  const std::size_t start = out.size();
  const auto shared = put_large(large, {buffer});
  shared ? append_shared_item(out, ItemTag::kArray, *shared) : append_tag(out, ItemTag::kArray);
  append(out, static_cast<std::uint8_t>(std::strlen(name_text)));
  out.append(name_text);
  append(out, static_cast<std::uint8_t>(buffer.ndim));
  for (int i = 0; i < buffer.ndim; ++i) append(out, static_cast<std::uint64_t>(buffer.shape[i]));
  if (!shared) {
    align(out, start);
    out.append(static_cast<const char*>(buffer.buf), static_cast<std::size_t>(buffer.len));
  }
  PyBuffer_Release(&buffer);
  return 1;
}

/// True for the .str of a number: bytes become no objects, whatever an item says.
bool is_dtype_of_numbers(std::string_view dtype) {
  return dtype.size() >= 3 && dtype.size() <= 4 && std::string_view("<>|=").find(dtype[0]) != dtype.npos &&
         std::string_view("biufc").find(dtype[1]) != dtype.npos;
}

/// Reads dtype and shape. Null with a Python error.
PyObject* decode_shape(ItemBytes item, std::size_t& at, std::string& name) {
  std::uint8_t name_size = 0, ndim = 0;
  if (!read(item, at, name_size) || item.size() - at < name_size) return unreadable();
  name.assign(reinterpret_cast<const char*>(item.data()) + at, name_size);
  at += name_size;
  if (!is_dtype_of_numbers(name) || !read(item, at, ndim)) return unreadable();
  PyRef shape(PyTuple_New(ndim));
  if (!shape) return nullptr;
  for (int i = 0; i < ndim; ++i) {
    std::uint64_t extent = 0;
    if (!read(item, at, extent)) return unreadable();
    PyTuple_SET_ITEM(shape.get(), i, PyLong_FromUnsignedLongLong(extent));
  }
  return shape.release();
}

PyObject* decode_array(ItemBytes item) {
  std::size_t at = 1;
  std::string name;
  PyRef shape(decode_shape(item, at, name));
  if (!shape) return nullptr;
  at = std::min(aligned(at), item.size());
  PyRef numpy(PyImport_ImportModule("numpy"));
  if (!numpy) return nullptr;
  PyRef array(PyObject_CallMethod(numpy.get(), "empty", "Os", shape.get(), name.c_str()));
  if (!array) return nullptr;
  Py_buffer buffer;
  if (PyObject_GetBuffer(array.get(), &buffer, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0) return nullptr;
  const bool fits = static_cast<std::size_t>(buffer.len) == item.size() - at;
  if (fits) std::memcpy(buffer.buf, item.data() + at, item.size() - at);
  PyBuffer_Release(&buffer);
  return fits ? array.release() : unreadable();
}

/// betterbox._pickling.dump, looked up once. Borrowed.
PyObject* pickling_dump() {
  static PyObject* dump = nullptr;
  if (dump == nullptr) {
    PyRef module(PyImport_ImportModule("betterbox._pickling"));
    if (module) dump = PyObject_GetAttrString(module.get(), "dump");
  }
  return dump;
}

PyObject* pickle_loads() {
  static PyObject* loads = nullptr;
  if (loads == nullptr) {
    PyRef module(PyImport_ImportModule("pickle"));
    if (module) loads = PyObject_GetAttrString(module.get(), "loads");
  }
  return loads;
}

bool encode_pickle(PyObject* object, std::string_view path, std::string& out, LargeBuffers* large = nullptr) {
  PyObject* dump = pickling_dump();
  if (dump == nullptr) return false;
  PyRef dumped(rest_if_ended([&] {
    return PyObject_CallFunction(dump, "Os#", object, path.data(), static_cast<Py_ssize_t>(path.size()));
  }));
  if (!dumped) return false;
  PyObject *pickle = nullptr, *buffers = nullptr;
  if (!PyArg_ParseTuple(dumped.get(), "SO!", &pickle, &PyList_Type, &buffers)) return false;
  const std::string_view bytes{PyBytes_AS_STRING(pickle), static_cast<std::size_t>(PyBytes_GET_SIZE(pickle))};
  const Py_ssize_t count = PyList_GET_SIZE(buffers);
  const std::size_t start = out.size();
  if (count == 0) {
    append_tag(out, ItemTag::kPickle);
    out.append(bytes);
    return true;
  }
  std::vector<Py_buffer> views(static_cast<std::size_t>(count));
  Py_ssize_t got = 0;
  bool ok = true;
  for (; ok && got < count; ++got) {
    PyRef raw(PyObject_CallMethod(PyList_GET_ITEM(buffers, got), "raw", nullptr));
    ok = raw && PyObject_GetBuffer(raw.get(), &views[static_cast<std::size_t>(got)], PyBUF_SIMPLE) == 0;
    if (!ok) break;
  }
  if (const auto shared = ok ? put_large(large, views) : std::nullopt) {
    append_shared_item(out, ItemTag::kPickleBuffers, *shared);
    out.append(bytes);
  } else if (ok) {
    std::size_t most = out.size() + bytes.size() + 64;
    for (const Py_buffer& view : views) most += static_cast<std::size_t>(view.len) + 8 + kAlignment;
    out.reserve(most);
    append_tag(out, ItemTag::kPickleBuffers);
    append(out, static_cast<std::uint32_t>(count));
    for (const Py_buffer& view : views) append(out, static_cast<std::uint64_t>(view.len));
    append(out, static_cast<std::uint64_t>(bytes.size()));
    out.append(bytes);
    for (const Py_buffer& view : views) {
      align(out, start);
      out.append(static_cast<const char*>(view.buf), static_cast<std::size_t>(view.len));
    }
  }
  for (Py_ssize_t i = 0; i < got; ++i) PyBuffer_Release(&views[static_cast<std::size_t>(i)]);
  return ok;
}

/// Large text in shared memory, with a pickle that makes it of its one buffer. Result: false if it stays in the item.
bool put_text(std::string_view text, std::string& out, LargeBuffers* large) {
  if (large == nullptr || text.size() < large->min_bytes()) return false;
  Py_buffer view{};
  view.buf = const_cast<char*>(text.data());
  view.len = static_cast<Py_ssize_t>(text.size());
  const auto shared = put_large(large, {view});
  if (!shared) return false;
  append_shared_item(out, ItemTag::kPickleBuffers, *shared);
  out +=
      "\x80\x05"
      "cbetterbox._pickling\ntext_of\n"
      "\x97\x85R.";  // text_of(the buffer)
  return true;
}

PyObject* load_pickle(ItemBytes pickle, PyObject* buffers) {
  PyObject* loads = pickle_loads();
  if (loads == nullptr) return nullptr;
  PyRef view(PyMemoryView_FromMemory(const_cast<char*>(reinterpret_cast<const char*>(pickle.data())),
                                     static_cast<Py_ssize_t>(pickle.size()), PyBUF_READ));
  if (!view) return nullptr;
  if (buffers == nullptr) return rest_if_ended([&] { return PyObject_CallOneArg(loads, view.get()); });
  PyRef args(PyTuple_Pack(1, view.get()));
  PyRef kwargs(Py_BuildValue("{sO}", "buffers", buffers));
  if (!args || !kwargs) return nullptr;
  return rest_if_ended([&] { return PyObject_Call(loads, args.get(), kwargs.get()); });
}

PyObject* decode_pickle_buffers(ItemBytes item) {
  std::size_t at = 1;
  std::uint32_t count = 0;
  if (!read(item, at, count) || (item.size() - at) / 8 < count) return unreadable();
  std::vector<std::uint64_t> sizes(count);
  for (std::uint64_t& size : sizes) read(item, at, size);
  std::uint64_t pickle_size = 0;
  if (!read(item, at, pickle_size) || item.size() - at < pickle_size) return unreadable();
  const ItemBytes pickle = item.subspan(at, pickle_size);
  at += pickle_size;
  PyRef buffers(PyList_New(0));
  if (!buffers) return nullptr;
  for (const std::uint64_t size : sizes) {
    at = aligned(at);
    if (at > item.size() || item.size() - at < size) return unreadable();
    PyRef buffer(PyByteArray_FromStringAndSize(reinterpret_cast<const char*>(item.data()) + at,
                                               static_cast<Py_ssize_t>(size)));
    if (!buffer || PyList_Append(buffers.get(), buffer.get()) < 0) return nullptr;
    at += size;
  }
  return load_pickle(pickle, buffers.get());
}

PyObject* decode_shared(ItemBytes bytes) {
  const auto item = parse_shared_item(bytes);
  if (!item) return unreadable();
  PyRef buffers(mapped_parts(*item));
  if (!buffers) return nullptr;
  if (item->form == ItemTag::kBytes) return PyBytes_FromObject(PyList_GET_ITEM(buffers.get(), 0));
  if (item->form == ItemTag::kPickleBuffers) return load_pickle(item->rest, buffers.get());
  std::size_t at = 0;
  std::string dtype;
  PyRef shape(decode_shape(item->rest, at, dtype));
  PyRef numpy(shape ? PyImport_ImportModule("numpy") : nullptr);
  return numpy ? PyObject_CallMethod(numpy.get(), "ndarray", "OsO", shape.get(), dtype.c_str(),
                                     PyList_GET_ITEM(buffers.get(), 0))
               : nullptr;
}

/// True for values that encode_item writes without a pickle.
bool is_simple(PyObject* object) {
  return object == Py_None || PyBool_Check(object) || PyLong_CheckExact(object) ||
         PyFloat_CheckExact(object) || PyUnicode_CheckExact(object) || PyBytes_CheckExact(object);
}

/// True for text and bytes that are no arguments for a page, before anything is copied.
bool is_long(PyObject* object) {
  if (PyBytes_CheckExact(object)) return static_cast<std::size_t>(PyBytes_GET_SIZE(object)) >= kPageBytes;
  return PyUnicode_CheckExact(object) && static_cast<std::size_t>(PyUnicode_GET_LENGTH(object)) >= kPageBytes;
}

bool read_item(ItemBytes item, std::size_t& at, ItemBytes& part) {
  std::uint32_t size = 0;
  if (!read(item, at, size) || item.size() - at < size) return false;
  part = item.subspan(at, size);
  at += size;
  // Arguments do not nest.
  return !part.empty() && part[0] != std::byte{static_cast<std::uint8_t>(ItemTag::kArguments)};
}

/// (args, kwargs)
PyObject* decode_simple_arguments(ItemBytes item) {
  std::size_t at = 1;
  std::uint32_t positional = 0, keywords = 0;
  if (!read(item, at, positional) || !read(item, at, keywords) || positional > item.size() ||
      keywords > item.size())
    return unreadable();
  PyRef args(PyTuple_New(positional));
  PyRef kwargs(PyDict_New());
  if (!args || !kwargs) return nullptr;
  ItemBytes part;
  for (std::uint32_t i = 0; i < positional; ++i) {
    if (!read_item(item, at, part)) return unreadable();
    PyObject* value = decode_item(part);
    if (value == nullptr) return nullptr;
    PyTuple_SET_ITEM(args.get(), i, value);
  }
  for (std::uint32_t i = 0; i < keywords; ++i) {
    std::string_view name;
    if (!read_text(item, at, name) || !read_item(item, at, part)) return unreadable();
    PyRef key(PyUnicode_DecodeUTF8(name.data(), static_cast<Py_ssize_t>(name.size()), nullptr));
    PyRef value(key ? decode_item(part) : nullptr);
    if (!value || PyDict_SetItem(kwargs.get(), key.get(), value.get()) < 0) return nullptr;
  }
  return at == item.size() ? PyTuple_Pack(2, args.get(), kwargs.get()) : unreadable();
}

bool all_simple(PyObject* args, PyObject* kwargs) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args); ++i) {
    if (!is_simple(PyTuple_GET_ITEM(args, i))) return false;
  }
  if (kwargs == nullptr) return true;
  PyObject *key = nullptr, *value = nullptr;
  for (Py_ssize_t at = 0; PyDict_Next(kwargs, &at, &key, &value);) {
    if (!is_simple(value) || PyUnicode_FindChar(key, ',', 0, PyUnicode_GET_LENGTH(key), 1) != -1)
      return false;
    if (PyUnicode_AsUTF8(key) == nullptr)
      return PyErr_Clear(), false;  // lone surrogates: the pickle keeps them
  }
  return true;
}

}  // namespace

bool encode_item(PyObject* object, std::string_view path, std::string& out, LargeBuffers* large) {
  if (object == Py_None) return append_tag(out, ItemTag::kNone), true;
  if (object == Py_True) return append_tag(out, ItemTag::kTrue), true;
  if (object == Py_False) return append_tag(out, ItemTag::kFalse), true;
  if (PyLong_CheckExact(object)) {
    int overflow = 0;
    const long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (overflow == 0) {
      append_tag(out, ItemTag::kInt);
      append(out, static_cast<std::int64_t>(value));
      return true;
    }
  } else if (PyFloat_CheckExact(object)) {
    append_tag(out, ItemTag::kFloat);
    append(out, PyFloat_AS_DOUBLE(object));
    return true;
  } else if (PyUnicode_CheckExact(object)) {
    Py_ssize_t size = 0;
    if (const char* text = PyUnicode_AsUTF8AndSize(object, &size)) {
      if (put_text({text, static_cast<std::size_t>(size)}, out, large)) return true;
      append_tag(out, ItemTag::kStr);
      out.append(text, static_cast<std::size_t>(size));
      return true;
    }
    PyErr_Clear();  // lone surrogates: the pickle keeps them
  } else if (PyBytes_CheckExact(object)) {
    if (large != nullptr && static_cast<std::size_t>(PyBytes_GET_SIZE(object)) >= large->min_bytes()) {
      Py_buffer view{};
      view.buf = PyBytes_AS_STRING(object);
      view.len = PyBytes_GET_SIZE(object);
      if (const auto shared = put_large(large, {view})) {
        append_shared_item(out, ItemTag::kBytes, *shared);
        return true;
      }
    }
    append_tag(out, ItemTag::kBytes);
    out.append(PyBytes_AS_STRING(object), static_cast<std::size_t>(PyBytes_GET_SIZE(object)));
    return true;
  } else if (Py_TYPE(object) == ndarray_type()) {
    const int encoded = encode_array(object, out, large);
    if (encoded != 0) return encoded > 0;
  }
  return encode_pickle(object, path, out, large);
}

PyObject* decode_item(ItemBytes item) {
  if (item.empty()) return unreadable();
  const ItemBytes rest = item.subspan(1);
  const char* text = reinterpret_cast<const char*>(rest.data());
  const auto size = static_cast<Py_ssize_t>(rest.size());
  switch (static_cast<ItemTag>(item[0])) {
    case ItemTag::kNone: return Py_NewRef(Py_None);
    case ItemTag::kTrue: return Py_NewRef(Py_True);
    case ItemTag::kFalse: return Py_NewRef(Py_False);
    case ItemTag::kInt: {
      std::int64_t value = 0;
      if (rest.size() != sizeof value) return unreadable();
      std::memcpy(&value, rest.data(), sizeof value);
      return PyLong_FromLongLong(value);
    }
    case ItemTag::kFloat: {
      double value = 0;
      if (rest.size() != sizeof value) return unreadable();
      std::memcpy(&value, rest.data(), sizeof value);
      return PyFloat_FromDouble(value);
    }
    case ItemTag::kStr: return PyUnicode_DecodeUTF8(text, size, nullptr);
    case ItemTag::kBytes: return PyBytes_FromStringAndSize(text, size);
    case ItemTag::kPickle: return load_pickle(rest, nullptr);
    case ItemTag::kPickleBuffers: return decode_pickle_buffers(item);
    case ItemTag::kArray: return decode_array(item);
    case ItemTag::kArguments: return decode_simple_arguments(item);
    case ItemTag::kScalar: return decode_scalar(item);
    case ItemTag::kShared: return decode_shared(item);
    case ItemTag::kError:
    case ItemTag::kLost: break;
  }
  return unreadable();
}

PyObject* decode_page_item(const PageView& page, std::uint64_t i) {
  if (page.kind() == PageKind::kIntRange) return PyLong_FromLongLong(page.int_item(i));
  if (page.has_items()) return decode_item(page.item(i));
  const std::string item = page.copy_item(i);
  return decode_item(std::as_bytes(std::span(item)));
}

bool short_value(PyObject* object, ShortValue& value) {
  if (object == Py_None) {
    value.type = ColumnType::kNone;
  } else if (PyLong_CheckExact(object)) {
    int overflow = 0;
    value.word = static_cast<std::uint64_t>(PyLong_AsLongLongAndOverflow(object, &overflow));
    value.type = ColumnType::kInt;
    return overflow == 0;
  } else if (PyFloat_CheckExact(object)) {
    value.word = std::bit_cast<std::uint64_t>(PyFloat_AS_DOUBLE(object));
    value.type = ColumnType::kFloat;
  } else if (PyBool_Check(object)) {
    value.word = object == Py_True ? 1 : 0;
    value.type = ColumnType::kBool;
  } else {
    return scalar_word(object, value);
  }
  return true;
}

bool decode_column(const PageView& column, std::uint64_t begin, std::uint64_t end, PyObject* list,
                   Py_ssize_t at) {
  const auto bytes = column.values(begin, end);
  const auto fill = [&](auto make) {
    for (std::uint64_t i = 0; i < end - begin; ++i) {
      PyObject* value = make(i);
      if (value == nullptr) return false;
      PyList_SET_ITEM(list, at++, value);
    }
    return true;
  };
  const auto load = [&]<class T>(std::uint64_t i, T value) {
    std::memcpy(&value, bytes.data() + i * sizeof value, sizeof value);
    return value;
  };
  switch (column.column_type()) {
    case ColumnType::kNone: return fill([](std::uint64_t) { return Py_NewRef(Py_None); });
    case ColumnType::kBool:
      return fill([&](std::uint64_t i) { return Py_NewRef(bytes[i] != std::byte{0} ? Py_True : Py_False); });
    case ColumnType::kInt:
      return fill([&](std::uint64_t i) { return PyLong_FromLongLong(load(i, std::int64_t{})); });
    case ColumnType::kFloat:
      return fill([&](std::uint64_t i) { return PyFloat_FromDouble(load(i, double{})); });
    case ColumnType::kScalars:
    case ColumnType::kArrays: break;
  }
  PyRef array(column_array(column));
  return array &&
         fill([&](std::uint64_t i) { return array_item(array.get(), begin + i, column.column_type()); });
}

bool is_failure(ItemBytes item) {
  const auto tag = static_cast<ItemTag>(item[0]);
  return tag == ItemTag::kError || tag == ItemTag::kLost;
}

bool encode_simple_arguments(PyObject* args, PyObject* kwargs, std::string& out) {
  const auto add = [&out](PyObject* value) {
    const std::size_t start = out.size();
    append(out, std::uint32_t{0});
    if (!is_simple(value) || is_long(value)) return false;
    if (!encode_item(value, "args", out)) return PyErr_Clear(), false;
    const auto size = static_cast<std::uint32_t>(out.size() - start - 4);
    std::memcpy(out.data() + start, &size, sizeof size);
    return out.size() - start < kPageBytes;
  };
  append_tag(out, ItemTag::kArguments);
  append(out, static_cast<std::uint32_t>(PyTuple_GET_SIZE(args)));
  append(out, static_cast<std::uint32_t>(PyDict_GET_SIZE(kwargs)));
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args); ++i) {
    if (!add(PyTuple_GET_ITEM(args, i))) return false;
  }
  PyObject *key = nullptr, *value = nullptr;
  for (Py_ssize_t at = 0; PyDict_Next(kwargs, &at, &key, &value);) {
    Py_ssize_t size = 0;
    const char* name = PyUnicode_AsUTF8AndSize(key, &size);
    if (name == nullptr) return PyErr_Clear(), false;
    append_text(out, {name, static_cast<std::size_t>(size)});
    if (!add(value)) return false;
  }
  return true;
}

std::optional<Frame> encode_arguments(PyObject* args, PyObject* kwargs, LargeBuffers* large) {
  if (kwargs != nullptr && PyDict_GET_SIZE(kwargs) == 0) kwargs = nullptr;
  std::string item;
  if (!all_simple(args, kwargs)) {
    PyRef both(Py_BuildValue("(OO)", args, kwargs != nullptr ? kwargs : Py_None));
    if (!both) return std::nullopt;
    if (!encode_pickle(both.get(), "args|kwargs", item, large)) return std::nullopt;
    return make_single_page(std::as_bytes(std::span(item)), PageKind::kSingle,
                            large != nullptr ? kFromNear : 0);
  }
  PageBuilder page;
  std::string names;
  if (kwargs != nullptr) {
    PyObject *key = nullptr, *value = nullptr;
    for (Py_ssize_t at = 0; PyDict_Next(kwargs, &at, &key, &value);) {
      if (!names.empty()) names += ',';
      const char* name = PyUnicode_AsUTF8(key);
      if (name == nullptr) return std::nullopt;
      names += name;
    }
    append_tag(item, ItemTag::kStr);
    item += names;
  } else {
    append_tag(item, ItemTag::kNone);
  }
  page.add(std::as_bytes(std::span(item)));
  const auto add = [&](PyObject* value) {
    item.clear();
    if (!encode_item(value, "args", item, large)) return false;
    page.add(std::as_bytes(std::span(item)));
    return true;
  };
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(args); ++i) {
    if (!add(PyTuple_GET_ITEM(args, i))) return std::nullopt;
  }
  if (kwargs != nullptr) {
    PyObject *key = nullptr, *value = nullptr;
    for (Py_ssize_t at = 0; PyDict_Next(kwargs, &at, &key, &value);) {
      if (!add(value)) return std::nullopt;
    }
  }
  return page.finish(large != nullptr ? kFromNear : 0);
}

bool decode_arguments(std::span<const std::byte> bytes, PyObject*& args, PyObject*& kwargs) {
  args = kwargs = nullptr;
  const auto page = PageView::parse(bytes);
  if (!page || !page->has_items() || page->kind() == PageKind::kFold) return unreadable() != nullptr;
  PyRef first(decode_item(page->item(0)));
  if (!first) return false;
  if (PyTuple_Check(first.get())) {
    PyObject *both_args = nullptr, *both_kwargs = nullptr;
    if (!PyArg_ParseTuple(first.get(), "O!O", &PyTuple_Type, &both_args, &both_kwargs)) return false;
    args = Py_NewRef(both_args);
    kwargs = both_kwargs == Py_None ? nullptr : Py_NewRef(both_kwargs);
    return true;
  }
  PyRef names(first.get() == Py_None         ? PyList_New(0)
              : PyUnicode_Check(first.get()) ? PyObject_CallMethod(first.get(), "split", "s", ",")
                                             : unreadable());
  if (!names) return false;
  const auto keywords = static_cast<std::uint64_t>(PyList_GET_SIZE(names.get()));
  if (page->count() < 1 + keywords) return unreadable() != nullptr;
  const std::uint64_t positional = page->count() - 1 - keywords;
  PyRef tuple(PyTuple_New(static_cast<Py_ssize_t>(positional)));
  PyRef dict(keywords > 0 ? PyDict_New() : nullptr);
  if (!tuple || (keywords > 0 && !dict)) return false;
  for (std::uint64_t i = 0; i < positional; ++i) {
    PyObject* value = decode_item(page->item(1 + i));
    if (value == nullptr) return false;
    PyTuple_SET_ITEM(tuple.get(), static_cast<Py_ssize_t>(i), value);
  }
  for (std::uint64_t i = 0; i < keywords; ++i) {
    PyRef value(decode_item(page->item(1 + positional + i)));
    if (!value ||
        PyDict_SetItem(dict.get(), PyList_GET_ITEM(names.get(), static_cast<Py_ssize_t>(i)), value.get()) < 0)
      return false;
  }
  args = tuple.release();
  kwargs = dict.release();
  return true;
}

}  // namespace betterbox
