// The slot's loop: takes records from its inbox, runs calls and the items of leases, writes outcomes.
//
// Order: what has arrived in the inbox is handled between two items, so a direct call waits for one item
// at most. Items are claimed one by one from the station's range word; `done` is published after an
// item's outcome is in the outbox, so whoever finds this process dead knows what it was doing.
#include "worker/slot.h"

#include <algorithm>
#include <deque>
#include <map>
#include <thread>
#include <utility>

#include "python/src/numpy_codec.h"
#include "python/src/object_codec.h"
#include "python/src/raised_error.h"
#include "runtime/page.h"
#include "runtime/segment_pool.h"
#include "runtime/slot_place.h"
#include "worker/item_clock.h"
#include "worker/record_bytes.h"
#include "worker/slot_arrivals.h"
#include "worker/slot_outlet.h"
#include "worker/slot_plan.h"
#include "worker/slot_protocol.h"

namespace betterbox {
namespace {

/// A fold that has gone on for this long is handed out, so that a death loses no more than that.
constexpr Duration kFoldFlush = milliseconds(500);
/// How often the express thread looks whether its slot has ended.
constexpr Duration kExpressSlice = milliseconds(200);

struct ActiveLease {
  struct Page {
    std::uint64_t first = 0, count = 0;
    PageView view;
    PyRef array;  // of a column of NumPy values, made when the first is asked for
  };
  SlotLease lease;
  std::string payload;  // keeps the pages
  std::vector<Page> pages;
  std::size_t page = 0;  // where the next item is, or before
  SlotPlan* plan = nullptr;
};

class Slot {
 public:
  Slot(SlotArena& arena, const SlotOptions& options)
      : arena_(arena),
        options_(options),
        outlet_(std::make_shared<Outlet>(arena, options.bell_fd)),
        arrivals_(arena, options.bell_fd, *outlet_),
        place_(new SlotPlace(arena.header(), options.bell_fd, options.in_process)) {}
  ~Slot() { SlotPlace::close(place_); }

  void run() {
    if (!start()) return end();
    while (!stopped_) {
      end_if_forked();
      if (auto arrival = arrivals_.next()) {
        arrival->lane ? run_lane_call(*arrival) : handle(arrival->record);
      } else if (!leases_.empty()) {
        run_items(leases_.front());
      } else {
        wait();
      }
    }
    end();
  }

 private:
  // --- life ---

  bool start() {
    Record record;
    {
      GilRelease release;
      record = arrivals_.first();
    }
    if (record.kind == static_cast<std::uint32_t>(ToSlot::kStop)) {
      outlet_->write(FromSlot::kStopped, {});
      return false;
    }
    BB_CHECK(record.kind == static_cast<std::uint32_t>(ToSlot::kInit));
    std::span<const std::byte> rest = bytes_of(record.payload);
    const auto init = take<SlotInit>(rest);
    if (init.agent != 0) place_->host({PeerId{init.agent}, SeatId{init.seat}, init.life});
    set_environment({reinterpret_cast<const char*>(rest.data()), init.environment_size});
    rest = rest.subspan(init.environment_size);
    hooks_ = PyRef(PyImport_ImportModule("betterbox._slot"));
    PyRef made(hooks_ ? PyObject_CallMethod(
                            hooks_.get(), "init", "y#OIO", reinterpret_cast<const char*>(rest.data()),
                            static_cast<Py_ssize_t>(rest.size()), options_.in_process ? Py_True : Py_False,
                            init.instance, (init.flags & 1U) != 0 ? Py_True : Py_False)
                      : nullptr);
    end_if_forked();
    std::string ready = made ? describe(made.get()) : std::string();
    if (ready.empty()) {
      outlet_->write(FromSlot::kFailed, bytes_of(encode_current_error()));
      return false;
    }
    direct_ = PyRef(PyObject_GetAttrString(hooks_.get(), "direct"));
    finish_ = PyRef(PyObject_GetAttrString(hooks_.get(), "finish"));
    surroundings_ = std::make_unique<SlotSurroundings>(hooks_.get());
    BB_CHECK(direct_ && finish_);
    outlet_->write(FromSlot::kReady, bytes_of(ready));
    tick();
    return true;
  }

  /// Lines NAME=VALUE, before any user code; through os.environ, which tells the C library, too.
  static void set_environment(std::string_view lines) {
    PyRef os(lines.empty() ? nullptr : PyImport_ImportModule("os"));
    PyRef environ(os ? PyObject_GetAttrString(os.get(), "environ") : nullptr);
    while (environ && !lines.empty()) {
      const std::string_view line = lines.substr(0, lines.find('\n'));
      lines.remove_prefix(std::min(lines.size(), line.size() + 1));
      const std::size_t sign = std::min(line.find('='), line.size());
      PyRef name(PyUnicode_DecodeFSDefaultAndSize(line.data(), static_cast<Py_ssize_t>(sign)));
      const std::string_view text = line.substr(std::min(line.size(), sign + 1));
      PyRef value(PyUnicode_DecodeFSDefaultAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
      if (!name || !value || PyObject_SetItem(environ.get(), name.get(), value.get()) != 0) break;
    }
    PyErr_Clear();
  }

  /// SlotReady and what follows it, from (class name, sandbox, [(method, flags)]). Empty: a Python error is set.
  std::string describe(PyObject* made) {
    const char* class_name = nullptr;
    Py_ssize_t class_size = 0;
    int sandbox = 0;
    PyObject* methods = nullptr;
    if (!PyArg_ParseTuple(made, "s#pO!", &class_name, &class_size, &sandbox, &PyList_Type, &methods))
      return {};
    std::string list;
    std::uint32_t count = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(methods); ++i) {
      const char* name = nullptr;
      Py_ssize_t size = 0;
      int flags = 0;
      if (!PyArg_ParseTuple(PyList_GET_ITEM(methods, i), "s#i", &name, &size, &flags)) return {};
      if (size > 255) continue;  // no attribute access anybody writes
      list.push_back(static_cast<char>(flags));
      list.push_back(static_cast<char>(size));
      list.append(name, static_cast<std::size_t>(size));
      has_express_ = has_express_ || flags != 0;
      ++count;
    }
    if (has_express_) start_express();
    const SlotReady head{static_cast<std::uint32_t>(sandbox), static_cast<std::uint32_t>(class_size), count,
                         0};
    std::string ready(reinterpret_cast<const char*>(&head), sizeof head);
    ready.append(class_name, static_cast<std::size_t>(class_size));
    return ready + list;
  }

  /// Sleeps until something comes or is due.
  void wait() {
    surroundings_->rest();
    {
      GilRelease release;
      arrivals_.wait(std::min(next_tick_, next_look_at_segments()));
      look_at_segments();
    }
    tick_if_due();
  }

  /// After user code has run: it may have forked, and this may be the child. It ends, since all that is the slot's is its
  /// parent's.
  void end_if_forked() { outlet_->end_if_forked(); }

  void tick_if_due() {
    if (next_tick_ != TimePoint::never() && monotonic_now() >= next_tick_) tick();
  }

  void tick() {
    next_tick_ = TimePoint::never();
    PyRef due(PyObject_CallMethod(hooks_.get(), "tick", nullptr));
    if (!due) {
      PyErr_WriteUnraisable(hooks_.get());
      return;
    }
    if (due.get() == Py_None) return;
    const double wait_s = PyFloat_AsDouble(due.get());
    next_tick_ = monotonic_now() + Duration{static_cast<std::int64_t>(wait_s * 1e9)};
  }

  void end() {
    ending_.store(true);
    if (express_.joinable()) {
      GilRelease release;
      express_.join();
    }
    outlet_->close();
  }

  // --- records ---

  void run_lane_call(Arrival& arrival) {
    std::span<const std::byte> rest = bytes_of(arrival.record.payload);
    const auto call = take<LaneCall>(rest);
    PyRef result;
    if (call.method_size <= rest.size()) {
      result = PyRef(call_method(rest, call.method_size));
    } else {
      PyErr_SetString(PyExc_RuntimeError, "betterbox: the call arrived unreadable");
    }
    end_if_forked();
    item_.clear();
    const bool near =
        call.method_size <= rest.size() && PageView::is_from_near(rest.subspan(call.method_size));
    if (!result || !encode_item(result.get(), "the result", item_, large(near)))
      item_ = encode_current_error();
    arrivals_.reply(*arrival.lane, call.serial, bytes_of(item_));
    tick_if_due();
  }

  void handle(Record& record) {
    std::span<const std::byte> rest = bytes_of(record.payload);
    switch (static_cast<ToSlot>(record.kind)) {
      case ToSlot::kContext: {
        const auto context = take<SlotContext>(rest);
        SlotPlan& plan = plans_[{PeerId{context.client}, context.serial}];
        plan.depth = context.depth;
        place_->enter({PeerId{context.client}, context.serial},
                      plan.depth);  // what is imported now may make calls and wait for them
        plan.load(hooks_.get(), *surroundings_, rest);
        end_if_forked();
        return place_->leave();
      }
      case ToSlot::kDropContext: {
        const auto context = take<SlotContext>(rest);
        plans_.erase({PeerId{context.client}, context.serial});
        return;
      }
      case ToSlot::kLease: return accept_lease(take<SlotLease>(rest), std::move(record.payload));
      case ToSlot::kCall: return run_call(take<SlotCall>(rest), rest);
      case ToSlot::kOpenLane:
      case ToSlot::kCancelCall: break;
      case ToSlot::kStop: return stop();
      case ToSlot::kInit: break;
    }
    BB_CHECK(!"a record that no slot knows");
  }

  void stop() {
    PyRef saved(PyObject_CallMethod(hooks_.get(), "stop", nullptr));
    end_if_forked();
    const std::string error = saved ? std::string() : encode_current_error();
    ending_.store(true);
    if (express_.joinable()) {
      GilRelease release;
      express_.join();
    }
    outlet_->write(FromSlot::kStopped, bytes_of(error));
    stopped_ = true;
  }

  // --- contexts and leases ---

  void accept_lease(const SlotLease& lease, std::string payload) {
    ActiveLease& active = leases_.emplace_back();
    active.lease = lease;
    active.payload = std::move(payload);
    std::span<const std::byte> rest = bytes_of(active.payload).subspan(sizeof(SlotLease));
    while (!rest.empty()) {
      const auto first = take<std::uint64_t>(rest);
      const auto count = take<std::uint64_t>(rest);
      const auto size = take<std::uint64_t>(rest);
      auto view = PageView::parse(rest.first(size));
      if (!view) break;  // its items become errors
      active.pages.push_back({first, count, *view, {}});
      rest = rest.subspan(std::min(rest.size(), static_cast<std::size_t>((size + 7) / 8 * 8)));
    }
    const auto plan = plans_.find({PeerId{lease.client}, lease.serial});
    BB_CHECK(plan != plans_.end());
    active.plan = &plan->second;
  }

  // --- items ---

  /// Runs items of the lease until it is used up or a record arrives.
  void run_items(ActiveLease& active) {
    LeaseStation& station = arena_.header().stations[active.lease.station];
    place_->enter({PeerId{active.lease.client}, active.lease.serial}, active.plan->depth);
    ItemClock clock(monotonic_now());
    Fold fold{clock.last()};
    bool pause = arrivals_.any();
    bool first = true;
    while (!pause) {
      const auto offset = station.word.claim();
      if (offset) outlet_->ring_after_claim();
      if (!offset) {
        write_fold(active, station, fold);
        const SlotLeaseDone done{active.lease.station, active.lease.generation};
        leases_.pop_front();
        place_->leave();
        outlet_->write(FromSlot::kLeaseDone, bytes_of_struct(done));
        return;
      }
      const bool settled = settle(*active.plan, std::exchange(first, false), clock.last());
      PyRef result(settled ? run_item(active, active.lease.base + *offset) : nullptr);
      end_if_forked();
      pause = arrivals_.any();
      const Duration busy =
          clock.item_ended(pause || station.word.position().remaining() == 0 || active.plan->fold());
      if (active.plan->fold() != nullptr && result) {
        add_to_fold(active, station, fold, std::move(result), *offset, busy, clock.last());
      } else {
        write_fold(active, station, fold);
        write_outcome(active, station, *offset, result.get(), busy);
      }
    }
    write_fold(active, station, fold);
    place_->leave();
    outlet_->ring();
    tick_if_due();
  }

  /// As the client of these items has its process. `first`: something else may have run before; between items of one map
  /// or spread nobody looks, as in a loop. Result: false: a Python error is set.
  bool settle(const SlotPlan& plan, bool first, TimePoint now) {
    if (first) return surroundings_->enter(plan.surroundings(), now);
    return !plan.submissions() || surroundings_->stay(plan.surroundings(), now);
  }

  PyObject* run_item(ActiveLease& active, std::uint64_t index) {
    if (active.plan->single_error() != nullptr) return nullptr;
    while (active.page + 1 < active.pages.size() && index >= active.pages[active.page + 1].first)
      ++active.page;
    if (active.pages.empty() || index < active.pages[active.page].first ||
        index - active.pages[active.page].first >= active.pages[active.page].view.count()) {
      PyErr_SetString(PyExc_RuntimeError, "betterbox: the item did not arrive with its lease");
      return nullptr;
    }
    ActiveLease::Page& page = active.pages[active.page];
    PyRef item(item_of(page, index - page.first));
    if (!item) return nullptr;
    return finished(active.plan->call(item.get()));
  }

  static PyObject* item_of(ActiveLease::Page& page, std::uint64_t place) {
    if (page.view.kind() != PageKind::kColumn || page.view.column_type() < ColumnType::kScalars)
      return decode_page_item(page.view, place);
    if (!page.array) page.array = PyRef(column_array(page.view));
    return page.array ? array_item(page.array.get(), place, page.view.column_type()) : nullptr;
  }

  /// Steals `value`. Promises and awaitables give their values (betterbox._slot.finish).
  PyObject* finished(PyObject* value) {
    if (value == nullptr || !may_be_promise(value)) return value;
    PyRef held(value);
    return PyObject_CallOneArg(finish_.get(), value);
  }

  bool may_be_promise(PyObject* value) {
    PyTypeObject* type = Py_TYPE(value);
    if (value == Py_None || type == &PyLong_Type || type == &PyUnicode_Type || type == &PyFloat_Type ||
        type == &PyBytes_Type || type == &PyBool_Type || type == &PyTuple_Type || type == &PyList_Type ||
        type == &PyDict_Type) {
      return false;
    }
    if (PyCoro_CheckExact(value)) return true;
    if (!promise_type_) {
      PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "betterbox._promise");
      if (module == nullptr) return false;  // nobody can have made one
      promise_type_ = PyRef(PyObject_GetAttrString(module, "Promise"));
      if (!promise_type_) PyErr_Clear();
    }
    return promise_type_ && PyObject_IsInstance(value, promise_type_.get()) == 1;
  }

  /// `result` null: a Python error is set (or the context could not be loaded).
  void write_outcome(ActiveLease& active, LeaseStation& station, std::uint32_t offset, PyObject* result,
                     Duration busy) {
    const SlotOutcome outcome{active.lease.station, active.lease.generation, offset, 1, busy.ns, busy.ns};
    ShortValue value;
    if (result != nullptr && short_value(result, value) && outlet_->write_short(outcome, value)) {
      station.done.store(offset + 1, std::memory_order_release);
      outlet_->ring_if_half_full();
      return;
    }
    item_.clear();
    if (PyObject* error = active.plan->single_error(); result == nullptr && error != nullptr) {
      PyErr_Clear();
      item_.assign(PyBytes_AS_STRING(error), static_cast<std::size_t>(PyBytes_GET_SIZE(error)));
    } else if (result == nullptr || !encode_item(result, "the result", item_, large(active.plan->near()))) {
      item_ = encode_current_error();
    }
    outlet_->write(FromSlot::kOutcome, bytes_of_struct(outcome), bytes_of(item_));
    station.done.store(offset + 1, std::memory_order_release);
  }

  // --- folds ---

  struct Fold {
    TimePoint began{};
    PyRef value{};
    std::uint32_t first = 0, count = 0;
    Duration busy{}, longest{};
  };

  void add_to_fold(ActiveLease& active, LeaseStation& station, Fold& fold, PyRef result, std::uint32_t offset,
                   Duration busy, TimePoint now) {
    if (fold.count == 0) {
      fold.first = offset;
      fold.value = std::move(result);
    } else {
      fold.value =
          PyRef(PyObject_CallFunctionObjArgs(active.plan->fold(), fold.value.get(), result.get(), nullptr));
    }
    ++fold.count;
    fold.busy = fold.busy + busy;
    fold.longest = std::max(fold.longest, busy);
    if (!fold.value || now - fold.began > kFoldFlush) {
      write_fold(active, station, fold);
      fold.began = now;
    }
  }

  /// Hands out what has been folded so far (an error of the folding function stands for all of it).
  void write_fold(ActiveLease& active, LeaseStation& station, Fold& fold) {
    if (fold.count == 0) return;
    PyRef error;  // of the item that ended the fold: not ours
    if (fold.value) error = take_raised_error();
    item_.clear();
    if (!fold.value || !encode_item(fold.value.get(), "the result", item_, large(active.plan->near()))) {
      item_ = encode_current_error();
    }
    const SlotOutcome outcome{active.lease.station, active.lease.generation, fold.first, fold.count,
                              fold.busy.ns,         fold.longest.ns};
    outlet_->write(FromSlot::kOutcome, bytes_of_struct(outcome), bytes_of(item_));
    station.done.store(fold.first + fold.count, std::memory_order_release);
    raise_again(std::move(error));
    fold = Fold{fold.began};
  }

  // --- direct calls ---

  void run_call(const SlotCall& call, std::span<const std::byte> rest) {
    PyRef result(call_method(rest, call.method_size));
    end_if_forked();
    reply(*outlet_, call.token, result.get(), item_,
          large(PageView::is_from_near(rest.subspan(call.method_size))));
    tick_if_due();
  }

  /// `call`: the method's name, then the page of its arguments.
  PyObject* call_method(std::span<const std::byte> call, std::size_t name_size) {
    PyRef callable(PyObject_CallFunction(direct_.get(), "s#", reinterpret_cast<const char*>(call.data()),
                                         static_cast<Py_ssize_t>(name_size)));
    PyObject *args = nullptr, *kwargs = nullptr;
    if (!callable || !decode_arguments(call.subspan(name_size), args, kwargs)) return nullptr;
    PyRef held_args(args), held_kwargs(kwargs);
    return finished(rest_if_ended([&] { return PyObject_Call(callable.get(), args, kwargs); }));
  }

  static void reply(Outlet& outlet, std::uint64_t token, PyObject* result, std::string& item,
                    LargeBuffers* large = nullptr) {
    item.clear();
    if (result == nullptr || !encode_item(result, "the result", item, large)) item = encode_current_error();
    outlet.write(FromSlot::kReply, bytes_of_struct(token), bytes_of(item));
  }

  /// Where large buffers of what is sent to a client go.
  static LargeBuffers* large(bool near) {
    static SentBuffers sent;
    return near ? &sent : nullptr;
  }

  // --- concurrent and async methods ---

  void start_express() {
    PyRef state(PyObject_CallMethod(hooks_.get(), "current", nullptr));
    if (!state) return PyErr_Clear();
    express_ = std::thread([this, held = state.release()] { run_express(held); });
  }

  void run_express(PyObject* state) {
    SlotInbox express(arena_.header().express, arena_.header().express.bell, arena_.express_data(),
                      options_.bell_fd);
    Record record;
    {
      GilHold gil;
      PyRef adopted(PyObject_CallMethod(hooks_.get(), "adopt", "O", state));
      if (!adopted) PyErr_WriteUnraisable(hooks_.get());
      Py_DECREF(state);
    }
    while (!ending_.load()) {
      if (!express.wait(monotonic_now() + kExpressSlice)) continue;
      express.read(record);
      if (record.kind != static_cast<std::uint32_t>(ToSlot::kCall)) continue;
      GilHold gil;
      std::span<const std::byte> rest = bytes_of(record.payload);
      const auto call = take<SlotCall>(rest);
      express_call(call, rest);
    }
  }

  struct Replier {
    std::shared_ptr<Outlet> outlet;
    std::uint64_t token;
    bool near;
  };

  void express_call(const SlotCall& call, std::span<const std::byte> rest) {
    const std::string method(reinterpret_cast<const char*>(rest.data()), call.method_size);
    const bool near = PageView::is_from_near(rest.subspan(call.method_size));
    PyObject *args = nullptr, *kwargs = nullptr;
    std::string item;
    if (!decode_arguments(rest.subspan(call.method_size), args, kwargs))
      return reply(*outlet_, call.token, nullptr, item);
    PyRef held_args(args), held_kwargs(kwargs != nullptr ? kwargs : PyDict_New());
    static PyMethodDef definition{"reply", &Slot::reply_from_python, METH_VARARGS,
                                  "Answer this call: (ok, value or exception)."};
    PyRef capsule(PyCapsule_New(new Replier{outlet_, call.token, near}, nullptr, [](PyObject* self) {
      delete static_cast<Replier*>(PyCapsule_GetPointer(self, nullptr));
    }));
    PyRef answer(PyCFunction_New(&definition, capsule.get()));
    PyRef done(PyObject_CallMethod(hooks_.get(), "express", "sOOO", method.c_str(), args, held_kwargs.get(),
                                   answer.get()));
    if (!done) reply(*outlet_, call.token, nullptr, item);
  }

  static PyObject* reply_from_python(PyObject* self, PyObject* args) {
    const auto* replier = static_cast<Replier*>(PyCapsule_GetPointer(self, nullptr));
    int ok = 0;
    PyObject* value = nullptr;
    if (replier == nullptr || !PyArg_ParseTuple(args, "pO", &ok, &value)) return nullptr;
    std::string item;
    if (ok == 0) PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(value)), value);
    reply(*replier->outlet, replier->token, ok != 0 ? value : nullptr, item, large(replier->near));
    Py_RETURN_NONE;
  }

  SlotArena& arena_;
  const SlotOptions options_;
  std::shared_ptr<Outlet> outlet_;
  SlotArrivals arrivals_;
  SlotPlace* const place_;
  PyRef hooks_, direct_, finish_, promise_type_;
  std::unique_ptr<SlotSurroundings> surroundings_;
  std::map<CallId, SlotPlan> plans_;
  std::deque<ActiveLease> leases_;
  std::string item_;
  TimePoint next_tick_ = TimePoint::never();
  bool stopped_ = false;
  bool has_express_ = false;
  std::atomic<bool> ending_{false};
  std::thread express_;
};

}  // namespace

void run_slot(SlotArena& arena, const SlotOptions& options) {
  // Not on the stack: a thread that Python ends when it finalises leaves the slot as it is, its other thread included.
  auto* slot = new Slot(arena, options);
  slot->run();
  delete slot;
}

}  // namespace betterbox
