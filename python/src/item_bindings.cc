#include "python/src/item_bindings.h"

#include <cstring>
#include <limits>

#include "python/src/bindings.h"
#include "python/src/numpy_codec.h"
#include "python/src/object_codec.h"
#include "python/src/py_ref.h"

namespace py = pybind11;

namespace betterbox {

namespace {

/// The path of an item: "args[0][7]"; of one that is zipped of several, those of its parts: "args[0][7]|args[1][7]".
std::string numbered(const std::string& path, std::uint64_t index) {
  const std::string number = '[' + std::to_string(index) + ']';
  std::string name = path + number;
  for (std::size_t bar = name.find('|'); bar != std::string::npos;
       bar = name.find('|', bar + number.size() + 1))
    name.insert(bar, number);
  return name;
}

}  // namespace

void PageWriter::append(py::handle item, std::string_view path) {
  item_.clear();
  if (!encode_item(item.ptr(), path, item_, &large_)) throw py::error_already_set();
  // A large item gets a page of its own, so that its neighbours stay cheap to move, and what it refers to goes with it.
  const std::uint64_t shared = large_.bytes();
  if (!page_.empty() && page_.bytes() + item_.size() + shared > kPageBytes) close_page();
  page_.add(std::as_bytes(std::span(item_)));
  ++count_;
  if (page_.bytes() + shared >= kPageBytes) close_page(shared);
}

void PageWriter::extend(py::handle items, const std::string& path, std::size_t most, std::uint64_t index) {
  std::string name;
  const std::size_t begun = nbytes();
  const py::iterator iterator = py::iter(items);
  const bool ended_here = may_be_ended();
  const auto next = [&] { return PyIter_Next(iterator.ptr()); };
  while (const PyRef held{ended_here ? rest_if_ended(next) : next()}) {
    const py::handle item = held.get();
    // The name is needed only for a pickle that fails; simple values never look at it.
    if (PyLong_CheckExact(item.ptr()) || PyFloat_CheckExact(item.ptr())) {
      append(item, path);
    } else {
      name = numbered(path, index);
      append(item, name);
    }
    ++index;
    if (nbytes() - begun >= most) return;
  }
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
}

void PageWriter::extend_range(std::int64_t start, std::int64_t step, std::uint64_t count) {
  if (count == 0) return;
  close_page();
  items_.pages.push_back({make_int_range_page(start, step, count), count, 0});
  count_ += count;
}

bool PageWriter::extend_array(py::handle array) {
  close_page();
  return array_columns(array.ptr(), [this](Frame page, std::uint64_t count) {
    closed_bytes_ += page.size();
    items_.pages.push_back({std::move(page), count});
    count_ += count;
  });
}

void PageWriter::set_costs(const py::bytes& costs) {
  const std::string_view bytes = costs;
  if (bytes.size() != count_ * sizeof(float)) throw py::value_error("one cost per item is needed");
  items_.costs.resize(count_);
  std::memcpy(items_.costs.data(), bytes.data(), bytes.size());
}

/// `shared`: bytes that its only item has in shared memory.
void PageWriter::close_page(std::uint64_t shared) {
  if (page_.empty()) return;
  const std::uint64_t count = page_.count();
  Frame frame = page_.finish();
  if (shared > 0) frame = with_hold(frame, large_.hold());
  closed_bytes_ += frame.size() + shared;
  items_.pages.push_back({std::move(frame), count, shared});
}

EncodedItems PageWriter::finish() {
  close_page();
  EncodedItems items = std::exchange(items_, {});
  items.count = std::exchange(count_, 0);
  closed_bytes_ = 0;
  return items;
}

void register_items(py::module_& module) {
  py::class_<Arguments>(module, "Arguments", "Encoded arguments of a direct call.")
      .def_property_readonly("broadcast", [](const Arguments& self) { return !self.values.empty(); });
  py::class_<PageWriter>(module, "Pages", "Items encoded one by one, as they are now. Not thread-safe.")
      .def(py::init<>())
      .def(
          "append", [](PageWriter& self, py::handle item) { self.append(item, "the item"); }, py::arg("item"),
          "Encode one item. Raises SerializationError.")
      .def("extend", &PageWriter::extend, py::arg("items"), py::arg("path") = "items",
           py::arg("most") = std::numeric_limits<std::size_t>::max(), py::arg("first") = 0,
           "Encode many, until they have `most` bytes; `path` and numbers from `first` on name them in "
           "errors: "
           "``args[0][17]``.")
      .def("extend_range", &PageWriter::extend_range, py::arg("start"), py::arg("step"), py::arg("count"),
           "Integers, as a description.")
      .def("extend_array", &PageWriter::extend_array, py::arg("array"),
           "The items of a NumPy array, as bytes. False (and nothing added): encode them one by one.")
      .def("set_costs", &PageWriter::set_costs, py::arg("costs"),
           "What all items so far are expected to cost: native float32, one each.")
      .def("__len__", &PageWriter::size)
      .def_property_readonly("nbytes", &PageWriter::nbytes);
  module.def(
      "encode_arguments",
      [](py::tuple args, py::dict kwargs, bool near, bool broadcast) {
        KeptBuffers large(near ? kSharedItemMinBytes : kBroadcastMinBytes);
        auto page = encode_arguments(args.ptr(), kwargs.ptr(), near || broadcast ? &large : nullptr);
        if (!page) throw py::error_already_set();
        if (auto hold = large.hold()) page = with_hold(*page, std::move(hold));
        return Arguments{std::move(*page), large.values()};
      },
      py::arg("args"), py::arg("kwargs"), py::arg("near") = false, py::arg("broadcast") = false,
      "Arguments of a direct call. Raises SerializationError naming the path (``args[0].model``).");
}

}  // namespace betterbox
