#include "python/src/shared_buffers.h"

#include "python/src/text_caster.h"

#include <pybind11/pybind11.h>

#include "python/src/bindings.h"
#include "python/src/py_ref.h"

namespace py = pybind11;

namespace betterbox {
namespace {

/// Null if there is no room.
std::unique_ptr<SharedBuffers> share(const py::list& buffers) {
  std::vector<py::buffer_info> held;
  std::vector<std::span<const std::byte>> parts;
  for (py::handle each : buffers) {
    const py::buffer_info& info = held.emplace_back(py::reinterpret_borrow<py::buffer>(each).request());
    parts.emplace_back(static_cast<const std::byte*>(info.ptr),
                       static_cast<std::size_t>(info.size) * static_cast<std::size_t>(info.itemsize));
  }
  std::optional<SegmentPool::Lease> lease;
  {
    const GilRelease release;
    lease = segment_pool()->write(parts);
  }
  return lease ? std::make_unique<SharedBuffers>(std::move(*lease)) : nullptr;
}

std::shared_ptr<MappedSegment> map_shared(const std::string& name, std::uint64_t serial, std::uint64_t offset,
                                          std::uint64_t size) {
  return MappedSegment::open(kSegmentFolder, {name, serial, offset, size});
}

}  // namespace

std::optional<std::vector<SegmentRef>> put_large(LargeBuffers* large, const std::vector<Py_buffer>& views) {
  if (large == nullptr) return std::nullopt;
  std::vector<std::span<const std::byte>> parts;
  std::size_t bytes = 0;
  for (const Py_buffer& view : views) {
    parts.emplace_back(static_cast<const std::byte*>(view.buf), static_cast<std::size_t>(view.len));
    bytes += parts.back().size();
  }
  if (bytes < large->min_bytes()) return std::nullopt;
  const GilRelease release;
  return large->put(parts);
}

namespace {

/// Of a value of another store: it is brought into this one first.
py::list parts_from_elsewhere(const SharedItemView& item) {
  const py::object mapped_part = py::module_::import("betterbox._refs").attr("mapped_part");
  py::list buffers;
  for (const auto& [offset, size] : item.parts) {
    buffers.append(mapped_part(item.name, item.serial, offset, size, item.store, item.serial, item.end(),
                               "of " + std::to_string(size) + " bytes in a call"));
  }
  return buffers;
}

}  // namespace

PyObject* mapped_parts(const SharedItemView& item) {
  const auto held = held_for(item);
  try {
    py::list buffers;
    if (!held && item.store != store_id()) return parts_from_elsewhere(item).release().ptr();
    for (const auto& [offset, size] : item.parts) {
      auto mapped = held ? MappedSegment::map(held, offset, size) : nullptr;
      if (!mapped) {
        PyErr_Format(PyExc_RuntimeError,
                     "betterbox: a value of %llu bytes is not in this host's shared memory (any more)",
                     static_cast<unsigned long long>(size));
        return nullptr;
      }
      buffers.append(py::cast(std::move(mapped)));
    }
    return buffers.release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
    return nullptr;
  }
}

void register_shared_buffers(py::module_& module) {
  module.attr("SHARED_MIN_BYTES") = kSegmentMinBytes;
  py::class_<SharedBuffers>(module, "SharedBuffers",
                            "Buffers copied into shared memory; freed with the last holder.")
      .def_property_readonly("refs", [](const SharedBuffers& self) {
        py::list refs;
        for (const SegmentRef& ref : self.parts())
          refs.append(py::make_tuple(ref.name, ref.serial, ref.offset, ref.size));
        return refs;
      });
  py::class_<MappedSegment, std::shared_ptr<MappedSegment>>(module, "MappedBuffer", py::buffer_protocol())
      .def_buffer([](MappedSegment& self) {
        return py::buffer_info(reinterpret_cast<unsigned char*>(self.bytes().data()),
                               static_cast<py::ssize_t>(self.bytes().size()));
      });
  module.def("store_id", &store_id, "Which shared memory this process uses; empty if it has none.");
  module.def(
      "segment_prefix", [] { return segment_pool()->prefix(); },
      "What the names of this process's files in shared memory begin with.");
  module.def("share", &share, py::arg("buffers"),
             "Copy buffers into shared memory; None if there is no room.");
  module.def("map_shared", &map_shared, py::arg("name"), py::arg("serial"), py::arg("offset"),
             py::arg("size"), "A private, writable mapping of a shared buffer; None if it is not there.");
}

}  // namespace betterbox
