// What Python holds of a call: betterbox._core.Call (python/betterbox/_core.pyi).
#pragma once

#include "python/src/text_caster.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <utility>
#include <vector>

#include "python/src/bindings.h"
#include "python/src/item_bindings.h"
#include "python/src/object_codec.h"
#include "python/src/raised_error.h"
#include "python/src/report_dicts.h"
#include "runtime/client.h"

namespace betterbox {

namespace py = pybind11;

// What a wait is for, beside a number of outcomes.
inline constexpr std::int64_t kWaitAll = -1;
inline constexpr std::int64_t kWaitAny = -2;
inline constexpr std::int64_t kWaitLanded = -3;

/// What Python holds of a call. Shares the client, so that it outlives its users.
class CallHandle {
 public:
  CallHandle(std::shared_ptr<Client> client, CallPtr call)
      : client_(std::move(client)), call_(std::move(call)) {}
  CallHandle(CallHandle&&) = default;
  CallHandle& operator=(CallHandle&&) = default;
  ~CallHandle() {
    if (!call_ || keep_) return;
    if (PyGILState_Check() != 0) {
      const GilRelease release;
      client_->release(call_, false);
    } else {
      client_->release(call_, false);
    }
  }

  const CallState& state() const { return *call_; }  // constant fields only
  void keep() { keep_ = true; }

  Client::Progress progress() const {
    const GilRelease release;
    return client_->progress(call_);
  }
  py::object total() const {
    const auto now = progress();
    return now.closed ? py::object(py::int_(now.known)) : py::object(py::none());
  }
  void feed(PageWriter& pages, bool closed) {
    EncodedItems items = pages.finish();
    const GilRelease release;
    client_->feed(call_, std::move(items), closed);
  }
  void fail_feed(py::object error) {
    error_ = std::move(error);
    const GilRelease release;
    client_->feed(call_, {}, true);
  }
  std::uint64_t feed_room(double timeout) {
    const TimePoint deadline = monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)};
    const GilRelease release;
    return client_->feed_room(call_, deadline);
  }
  void free_running(bool on) {
    const GilRelease release;
    client_->free_running(call_, on);
  }
  bool wait(std::int64_t until, py::object timeout) {
    const TimePoint deadline = deadline_after(std::move(timeout));
    bool met = false;
    {
      const GilRelease release;
      met = client_->wait(condition(until), deadline, check_signals, {call_, until == kWaitAll, true});
    }
    const auto now = progress();
    if (!now.failure.empty() && now.settled < now.known) throw BusError(now.failure);
    return met;
  }
  /// wait(0) and get(0) with the GIL released once; None if it is not there in time.
  py::object answer(double timeout) {
    const TimePoint deadline = monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)};
    std::optional<Outcome> outcome;
    {
      const GilRelease release;
      if (client_->wait(client_->settled_item(call_, 0), deadline, check_signals, {call_, false, true})) {
        outcome = client_->outcome(call_, 0, false);
      }
    }
    if (outcome) return decode(outcome->item);
    return wait(0, py::float_(0.0)) ? py::object(get(0, false)) : py::object(py::none());
  }
  bool cancel() {
    const GilRelease release;
    return client_->cancel(call_);
  }
  void notify() {
    const GilRelease release;
    client_->notify(call_);
  }
  void withdraw() {
    const GilRelease release;
    client_->withdraw(call_);
  }
  void notify_landing(std::uint64_t arrivals) {
    const GilRelease release;
    client_->notify_landing(call_, arrivals);
  }
  bool keeps_all() {
    const GilRelease release;
    return client_->keeps_all(call_);
  }
  py::tuple get(std::uint64_t index, bool take) {
    std::optional<Outcome> outcome;
    {
      const GilRelease release;
      outcome = client_->outcome(call_, index, take);
    }
    if (!outcome) {
      if (error_) return py::make_tuple(false, error_);
      throw py::index_error("item " + std::to_string(index) + " has no outcome");
    }
    return decode(outcome->item);
  }
  py::list values(std::uint64_t first, std::uint64_t limit, bool take) {
    std::vector<Client::Span> spans;
    {
      const GilRelease release;
      spans = client_->successes(call_, first, limit, take);
    }
    py::list result;
    for (const Client::Span& span : spans) {
      const py::list part = values_of(span);
      if (result.empty()) {
        result = part;
      } else if (PyList_SetSlice(result.ptr(), PY_SSIZE_T_MAX, PY_SSIZE_T_MAX, part.ptr()) < 0) {
        throw py::error_already_set();
      }
      if (part.size() < span.items.size()) break;
    }
    if (take) {
      const Range taken{first, first + result.size()};
      const GilRelease release;
      client_->take(call_, taken);
    }
    return result;
  }
  /// ([(index, value)], arrivals, items, failed index or None): see Client::landed.
  py::tuple landed(std::uint64_t arrivals, std::uint64_t items, std::uint64_t limit, bool take) {
    Client::Landing at{arrivals, items};
    std::optional<std::uint64_t> failed;
    std::vector<Client::Span> spans;
    {
      const GilRelease release;
      spans = client_->landed(call_, at, limit, take, failed);
    }
    py::list pairs;
    std::size_t count = 0;
    for (const Client::Span& span : spans) {
      const py::list part = values_of(span);
      count += part.size();
      for (std::size_t i = 0; i < part.size(); ++i) {
        PyObject* value = PyList_GET_ITEM(part.ptr(), static_cast<Py_ssize_t>(i));
        const auto pair = py::reinterpret_steal<py::object>(
            Py_BuildValue("(KO)", static_cast<unsigned long long>(span.items.begin + i), value));
        if (!pair || PyList_Append(pairs.ptr(), pair.ptr()) < 0) throw py::error_already_set();
      }
      // One that cannot be loaded ends the round; who comes back to it hears why.
      if (part.size() == span.items.size()) continue;
      if (pairs.empty()) failed = span.items.begin;
      at = {arrivals, items};
      std::optional<std::uint64_t> none;
      const GilRelease release;
      spans = client_->landed(call_, at, std::max<std::size_t>(1, count), take, none);
      if (failed) spans.clear();
      break;
    }
    if (take) {
      const GilRelease release;
      for (const Client::Span& span : spans) client_->take(call_, span.items);
    }
    return py::make_tuple(pairs, at.arrivals, at.items, failed);
  }
  py::list results(bool with_exceptions) {
    const auto spans = all_spans();
    std::uint64_t total = 0;
    for (const auto& span : spans) total += span.count;
    PyObject* list = PyList_New(static_cast<Py_ssize_t>(total));
    if (list == nullptr) throw py::error_already_set();
    // Nobody else sees the list before it is full, but for the garbage collector, which takes empty places.
    auto values = py::reinterpret_steal<py::list>(list);
    Py_ssize_t at = 0;
    for (const auto& span : spans) {
      const bool each = span.view.count() == span.count;
      if (each && span.view.kind() == PageKind::kColumn) {
        if (!decode_column(span.view, 0, span.count, list, at)) throw py::error_already_set();
        at += static_cast<Py_ssize_t>(span.count);
        continue;
      }
      for (std::uint64_t i = 0; i < span.count; ++i) {
        PyList_SET_ITEM(list, at++, value_or_raise(span.view.item(each ? i : 0), with_exceptions));
      }
    }
    if (error_) {
      if (!with_exceptions) raise(error_);
      values.append(error_);
    }
    return values;
  }
  py::list folds() {
    py::list values;
    for (const auto& span : all_spans()) {
      const py::tuple part = decode(span.view.item(0));
      if (!part[0].cast<bool>()) raise(part[1]);
      values.append(part[1]);
    }
    if (error_) raise(error_);
    return values;
  }
  py::object first_success() {
    std::optional<std::uint64_t> index;
    {
      const GilRelease release;
      index = client_->first_success(call_);
    }
    return index ? py::object(py::int_(*index)) : py::object(py::none());
  }
  py::dict explain(double timeout) {
    const TimePoint deadline = monotonic_now() + Duration{static_cast<std::int64_t>(timeout * 1e9)};
    CallStats stats;
    {
      const GilRelease release;
      stats = client_->explain(call_, deadline, check_signals);
    }
    return to_dict(stats);
  }

 private:
  Client::Condition condition(std::int64_t until) {
    switch (until) {
      case kWaitAll: return client_->over(call_);
      case kWaitAny: return client_->any_success(call_);
      default: break;
    }
    if (until >= 0) return client_->settled_item(call_, static_cast<std::uint64_t>(until));
    return client_->more_landed(call_, static_cast<std::uint64_t>(kWaitLanded - until));
  }
  /// Values up to the first that cannot be loaded: whoever asks for that one gets the error.
  static py::list values_of(const Client::Span& span) {
    const auto size = static_cast<Py_ssize_t>(span.items.size());
    if (span.is_column()) {
      auto values = py::reinterpret_steal<py::list>(PyList_New(size));
      if (!values) throw py::error_already_set();
      if (decode_column(span.view, span.place, span.place + span.items.size(), values.ptr(), 0))
        return values;
      PyErr_Clear();
      return py::list();
    }
    py::list values;
    for (std::uint64_t i = 0; i < span.items.size(); ++i) {
      PyRef value(decode_item(span.item(i)));
      if (!value) {
        PyErr_Clear();
        break;
      }
      if (PyList_Append(values.ptr(), value.get()) < 0) throw py::error_already_set();
    }
    return values;
  }
  std::vector<Client::ResultSpan> all_spans() {
    const GilRelease release;
    return client_->result_spans(call_);
  }
  /// A new reference to an item's value; of one that failed: raises, or the exception.
  PyObject* value_or_raise(ItemBytes item, bool with_exceptions) const {
    if (!is_failure(item)) {
      PyObject* value = decode_item(item);
      if (value != nullptr) return value;
      if (!with_exceptions) throw py::error_already_set();
      return current_exception().release().ptr();
    }
    py::object failure = decode(item)[1];
    if (!with_exceptions) raise(failure);
    return failure.release().ptr();
  }
  static py::object current_exception() {
    return py::reinterpret_steal<py::object>(take_raised_error().release());
  }
  [[noreturn]] static void raise(py::handle error) {
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
    throw py::error_already_set();
  }
  /// (True, value) or (False, exception). A value that cannot be loaded here is an exception, too.
  py::tuple decode(ItemBytes item) const {
    if (is_failure(item)) {
      PyObject* failure = decode_failure(item, call_->method, call_->port);
      if (failure == nullptr) return py::make_tuple(false, current_exception());
      return py::make_tuple(false, py::reinterpret_steal<py::object>(failure));
    }
    PyObject* value = decode_item(item);
    if (value == nullptr) return py::make_tuple(false, current_exception());
    return py::make_tuple(true, py::reinterpret_steal<py::object>(value));
  }

  std::shared_ptr<Client> client_;
  CallPtr call_;
  py::object error_;  ///< what the generator raised
  bool keep_ = false;
};

}  // namespace betterbox
