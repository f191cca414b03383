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

#include "python/src/object_codec.h"
#include "python/src/py_ref.h"
#include "runtime/page.h"
#include "worker/slot_outlet.h"
#include "worker/slot_protocol.h"
#include "worker/slot_waiting.h"

namespace betterbox {
namespace {

/// A fold that has gone on for this long is handed out, so that a death loses no more than that.
constexpr Duration kFoldFlush = milliseconds(500);
/// How often the express thread looks whether its slot has ended.
constexpr Duration kExpressSlice = milliseconds(200);

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

template <class T> std::span<const std::byte> bytes_of_struct(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

/// Takes a fixed struct off the front of a record's payload.
template <class T> T take(std::span<const std::byte>& rest) {
  T value;
  BB_CHECK(rest.size() >= sizeof value);
  std::memcpy(&value, rest.data(), sizeof value);
  rest = rest.subspan(sizeof value);
  return value;
}

/// What a call runs: unpickled once per call and slot.
struct Plan {
  PyRef callable;
  PyRef args;          // tuple with places for the spread arguments
  PyRef kwargs;        // dict, maybe empty
  PyRef places;        // tuple of int (position) or str (keyword)
  PyRef fold;          // callable or null
  PyRef single_error;  // bytes: the error item that stands for every item, when the context cannot be loaded
  int simple_place = -1;          // one spread argument, positional: the fast way
  std::vector<PyObject*> vector;  // borrowed from args, for vectorcall; one free place in front
  PyRef kwnames;
};

struct ActiveLease {
  struct Page {
    std::uint64_t first = 0, count = 0;
    PageView view;
  };
  SlotLease lease;
  std::string payload;  // keeps the pages
  std::vector<Page> pages;
  std::size_t page = 0;  // where the next item is, or before
  Plan* plan = nullptr;
};

/// How long items take. Reading the clock costs as much as a very short item: while all items are short it is read
/// once for a few of them, and those between get what the ones before took.
class ItemClock {
 public:
  explicit ItemClock(TimePoint now) : read_(now) {}
  Duration item_ended() {
    if (++since_ < stride_) {
      guessed_ = guessed_ + typical_;
      return typical_;
    }
    const TimePoint now = monotonic_now();
    const Duration all = now - read_;
    const Duration rest{std::max<std::int64_t>(0, (all - guessed_).ns)};
    typical_ = {all.ns / since_};
    const bool is_short = typical_.ns < kShort.ns;
    stride_ = is_short ? std::min(stride_ * 2, kLongestStride) : 1;
    read_ = now;
    guessed_ = {};
    since_ = 0;
    return rest;
  }
  TimePoint last() const { return read_; }

 private:
  static constexpr Duration kShort = microseconds(2);
  static constexpr std::int64_t kLongestStride = 8;
  TimePoint read_;
  Duration typical_{}, guessed_{};
  std::int64_t since_ = 0, stride_ = 1;
};

class Slot {
 public:
  Slot(SlotArena& arena, const SlotOptions& options)
      : arena_(arena),
        options_(options),
        inbox_(arena.header().inbox, arena.header().bell, arena.inbox_data(), options.bell_fd),
        outlet_(std::make_shared<Outlet>(arena, options.bell_fd)) {}

  void run() {
    if (!start()) return end();
    while (!stopped_) {
      take_arrivals();
      if (!waiting_.empty()) {
        current_ = std::move(waiting_.front());
        waiting_.pop_front();
        if (current_.lane != nullptr) {
          run_lane_call(current_);
        } else {
          handle(current_.record);
        }
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
    {
      GilRelease release;
      while (!inbox_.wait(TimePoint::never())) {}
      inbox_.read(record_);
    }
    if (record_.kind == static_cast<std::uint32_t>(ToSlot::kStop)) {
      outlet_->write(FromSlot::kStopped, {});
      return false;
    }
    BB_CHECK(record_.kind == static_cast<std::uint32_t>(ToSlot::kInit));
    std::span<const std::byte> rest = bytes_of(record_.payload);
    const auto init = take<SlotInit>(rest);
    set_environment({reinterpret_cast<const char*>(rest.data()), init.environment_size});
    rest = rest.subspan(init.environment_size);
    hooks_ = PyRef(PyImport_ImportModule("betterbox._slot"));
    PyRef made(hooks_ ? PyObject_CallMethod(
                            hooks_.get(), "init", "y#OIO", reinterpret_cast<const char*>(rest.data()),
                            static_cast<Py_ssize_t>(rest.size()), options_.in_process ? Py_True : Py_False,
                            init.instance, (init.flags & 1U) != 0 ? Py_True : Py_False)
                      : nullptr);
    std::string ready = made ? describe(made.get()) : std::string();
    if (ready.empty()) {
      outlet_->write(FromSlot::kFailed, bytes_of(encode_current_error()));
      return false;
    }
    direct_ = PyRef(PyObject_GetAttrString(hooks_.get(), "direct"));
    finish_ = PyRef(PyObject_GetAttrString(hooks_.get(), "finish"));
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

  /// Sleeps until a record is there (read without the GIL, however large) or something is due.
  void wait() {
    {
      GilRelease release;
      const auto ready = [this] { return has_arrivals(); };
      // After a call through a lane the next one often comes soon.
      if (!std::exchange(chatty_, false) || !spinner_.spin(ready)) inbox_.wait(next_tick_, ready);
      if (inbox_.has_bytes())
        inbox_.read(record_);
      else
        record_.kind = 0;
    }
    if (record_.kind != 0) arrive();
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

  /// Everything waits in order of arrival, so that a call can be cancelled before it has begun.
  void arrive() {
    if (record_.kind != static_cast<std::uint32_t>(ToSlot::kCancelCall)) {
      if (record_.kind == static_cast<std::uint32_t>(ToSlot::kOpenLane)) return open_lane();
      waiting_.push_back({std::exchange(record_, {}), nullptr});
      return;
    }
    std::span<const std::byte> rest = bytes_of(record_.payload);
    const auto token = take<std::uint64_t>(rest);
    if (close_lane(token)) return;
    std::erase_if(waiting_, [token](const Waiting& waiting) {
      std::span<const std::byte> call = bytes_of(waiting.record.payload);
      return waiting.lane == nullptr && waiting.record.kind == static_cast<std::uint32_t>(ToSlot::kCall) &&
             take<SlotCall>(call).token == token;
    });
  }

  // --- lanes (runtime/lane.h) ---

  bool has_arrivals() const {
    return inbox_.has_bytes() || std::any_of(lanes_.begin(), lanes_.end(),
                                             [](const LanePtr& lane) { return lane->end->has_requests(); });
  }

  void take_arrivals() {
    while (inbox_.has_bytes()) {
      inbox_.read(record_);
      arrive();
    }
    for (std::size_t i = lanes_.size(); i-- > 0;) take_requests(lanes_[i]);
  }

  /// One by one, so that a call can be cancelled before it has begun; no more than a client may have under way.
  void take_requests(const LanePtr& held) {
    const LanePtr lane = held;
    Record record;
    while (lane->waiting < kMaxDirectCallsInFlight && lane->end->receive(record)) {
      std::span<const std::byte> rest = bytes_of(record.payload);
      const bool call = record.kind == static_cast<std::uint32_t>(LaneRecord::kCall);
      if (rest.size() < (call ? sizeof(LaneCall) : sizeof(std::uint64_t))) continue;
      if (call) {
        waiting_.push_back({std::exchange(record, {}), lane});
        ++lane->waiting;
      } else if (record.kind == static_cast<std::uint32_t>(LaneRecord::kCancel)) {
        skip_call(lane, take<std::uint64_t>(rest));
      }
    }
    if (lane->end->broken()) {
      close_lane(lane->token);
      const std::string lost = make_lost_item(LostCode::kBadRequest, 0, {}, "its lane was written over");
      outlet_->write(FromSlot::kReply, bytes_of_struct(lane->token), bytes_of(lost));
    }
  }

  void skip_call(const LanePtr& lane, std::uint64_t serial) {
    const std::size_t skipped = std::erase_if(waiting_, [&](const Waiting& waiting) {
      if (waiting.lane != lane) return false;
      std::span<const std::byte> rest = bytes_of(waiting.record.payload);
      return take<LaneCall>(rest).serial == serial;
    });
    lane->waiting -= skipped;
    if (skipped > 0) send_reply(*lane, LaneRecord::kSkipped, serial, {});
  }

  void open_lane() {
    std::span<const std::byte> rest = bytes_of(record_.payload);
    const auto asked = take<SlotLaneAsked>(rest);
    auto end = SlotLane::open(asked.pid, asked.fd, asked.nonce, arena_);
    if (end) lanes_.push_back(std::make_shared<ServedLane>(ServedLane{asked.token, std::move(end)}));
  }

  /// What a client that took its leave has sent is still run. Result: false if there is no such lane.
  bool close_lane(std::uint64_t token) {
    const auto at =
        std::find_if(lanes_.begin(), lanes_.end(), [&](const LanePtr& l) { return l->token == token; });
    if (at == lanes_.end()) return false;
    const LanePtr lane = *at;
    if (lane->end->client_left()) {
      if (!lane->end->broken()) take_requests(lane);
    } else {
      std::erase_if(waiting_, [&](const Waiting& waiting) { return waiting.lane == lane; });
    }
    std::erase(lanes_, lane);
    return true;
  }

  void run_lane_call(Waiting& waiting) {
    --waiting.lane->waiting;
    chatty_ = true;
    std::span<const std::byte> rest = bytes_of(waiting.record.payload);
    const auto call = take<LaneCall>(rest);
    PyRef result;
    if (call.method_size <= rest.size()) {
      result = PyRef(call_method(rest, call.method_size));
    } else {
      PyErr_SetString(PyExc_RuntimeError, "betterbox: the call arrived unreadable");
    }
    item_.clear();
    if (!result || !encode_item(result.get(), "result", item_)) item_ = encode_current_error();
    send_reply(*waiting.lane, LaneRecord::kReply, call.serial, bytes_of(item_));
    waiting.lane.reset();
    if (next_tick_ != TimePoint::never() && monotonic_now() >= next_tick_) tick();
  }

  /// Through the lane, or, where it has no room, through the agent.
  void send_reply(ServedLane& lane, LaneRecord kind, std::uint64_t serial, std::span<const std::byte> item) {
    if (LaneRing::may_fit(item.size()) && lane.end->reply(kind, {bytes_of_struct(serial), item})) return;
    if (kind == LaneRecord::kSkipped) return;
    outlet_->write(FromSlot::kLaneReply, bytes_of_struct(SlotLaneReply{lane.token, serial}), item);
  }

  void handle(Record& record) {
    std::span<const std::byte> rest = bytes_of(record.payload);
    switch (static_cast<ToSlot>(record.kind)) {
      case ToSlot::kContext: return load_context(take<SlotContext>(rest), rest);
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

  void load_context(const SlotContext& context, std::span<const std::byte> bytes) {
    Plan& plan = plans_[{PeerId{context.client}, context.serial}];
    PyRef loaded(PyObject_CallMethod(hooks_.get(), "load_call", "y#",
                                     reinterpret_cast<const char*>(bytes.data()),
                                     static_cast<Py_ssize_t>(bytes.size())));
    PyObject *callable = nullptr, *args = nullptr, *kwargs = nullptr, *places = nullptr, *fold = nullptr;
    if (!loaded || !PyArg_ParseTuple(loaded.get(), "OO!O!O!O", &callable, &PyTuple_Type, &args, &PyDict_Type,
                                     &kwargs, &PyTuple_Type, &places, &fold)) {
      const std::string error = encode_current_error();
      plan.single_error =
          PyRef(PyBytes_FromStringAndSize(error.data(), static_cast<Py_ssize_t>(error.size())));
      return;
    }
    plan.callable = PyRef::borrow(callable);
    plan.args = PyRef::borrow(args);
    plan.kwargs = PyRef::borrow(kwargs);
    plan.places = PyRef::borrow(places);
    if (fold != Py_None) plan.fold = PyRef::borrow(fold);
    if (PyTuple_GET_SIZE(places) == 1 && PyLong_CheckExact(PyTuple_GET_ITEM(places, 0))) {
      prepare_vectorcall(plan);
    }
  }

  /// One positional spread argument: an array of borrowed references with one place that changes.
  void prepare_vectorcall(Plan& plan) {
    plan.simple_place = static_cast<int>(PyLong_AsLong(PyTuple_GET_ITEM(plan.places.get(), 0)));
    const Py_ssize_t positional = PyTuple_GET_SIZE(plan.args.get());
    const Py_ssize_t keywords = PyDict_GET_SIZE(plan.kwargs.get());
    plan.vector.push_back(nullptr);  // for PY_VECTORCALL_ARGUMENTS_OFFSET
    for (Py_ssize_t i = 0; i < positional; ++i) plan.vector.push_back(PyTuple_GET_ITEM(plan.args.get(), i));
    if (keywords == 0) return;
    plan.kwnames = PyRef(PyTuple_New(keywords));
    PyObject *key = nullptr, *value = nullptr;
    Py_ssize_t place = 0;
    for (Py_ssize_t at = 0; PyDict_Next(plan.kwargs.get(), &at, &key, &value);) {
      plan.vector.push_back(value);
      PyTuple_SET_ITEM(plan.kwnames.get(), place++, Py_NewRef(key));
    }
  }

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
      active.pages.push_back({first, count, *view});
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
    ItemClock clock(monotonic_now());
    Fold fold{clock.last()};
    while (!has_arrivals()) {
      const auto offset = station.word.claim();
      outlet_->ring_after_claim();
      if (!offset) {
        write_fold(active, station, fold);
        const SlotLeaseDone done{active.lease.station, active.lease.generation};
        leases_.pop_front();
        outlet_->write(FromSlot::kLeaseDone, bytes_of_struct(done));
        return;
      }
      PyRef result(run_item(active, active.lease.base + *offset));
      const Duration busy = clock.item_ended();
      if (active.plan->fold && result) {
        add_to_fold(active, station, fold, std::move(result), *offset, busy, clock.last());
      } else {
        write_fold(active, station, fold);
        write_outcome(active, station, *offset, result.get(), busy);
      }
    }
    write_fold(active, station, fold);
    outlet_->ring();
    if (monotonic_now() >= next_tick_) tick();
  }

  PyObject* run_item(ActiveLease& active, std::uint64_t index) {
    Plan& plan = *active.plan;
    if (plan.single_error) return nullptr;
    while (active.page + 1 < active.pages.size() && index >= active.pages[active.page + 1].first)
      ++active.page;
    if (active.pages.empty() || index < active.pages[active.page].first ||
        index - active.pages[active.page].first >= active.pages[active.page].view.count()) {
      PyErr_SetString(PyExc_RuntimeError, "betterbox: the item did not arrive with its lease");
      return nullptr;
    }
    const ActiveLease::Page& page = active.pages[active.page];
    PyRef item(decode_page_item(page.view, index - page.first));
    if (!item) return nullptr;
    return finished(plan.simple_place >= 0 ? call_simple(plan, item.get()) : call_general(plan, item.get()));
  }

  static PyObject* call_simple(Plan& plan, PyObject* item) {
    const auto positional = static_cast<std::size_t>(PyTuple_GET_SIZE(plan.args.get()));
    plan.vector[1 + static_cast<std::size_t>(plan.simple_place)] = item;
    return PyObject_Vectorcall(plan.callable.get(), plan.vector.data() + 1,
                               positional | PY_VECTORCALL_ARGUMENTS_OFFSET, plan.kwnames.get());
  }

  /// A submission: the item holds all arguments.
  static PyObject* call_submitted(Plan& plan, PyObject* item) {
    PyObject *args = nullptr, *kwargs = nullptr;
    if (!PyArg_ParseTuple(item, "O!O!", &PyTuple_Type, &args, &PyDict_Type, &kwargs)) return nullptr;
    return PyObject_Call(plan.callable.get(), args, PyDict_GET_SIZE(kwargs) > 0 ? kwargs : nullptr);
  }

  /// Spread arguments by keyword, or several of them (the item is then a tuple of them).
  static PyObject* call_general(Plan& plan, PyObject* item) {
    const Py_ssize_t places = PyTuple_GET_SIZE(plan.places.get());
    if (places == 0) return call_submitted(plan, item);
    PyRef args(PySequence_List(plan.args.get()));
    PyRef kwargs(PyDict_Copy(plan.kwargs.get()));
    if (!args || !kwargs) return nullptr;
    for (Py_ssize_t i = 0; i < places; ++i) {
      PyObject* value = places == 1 ? item : PyTuple_GetItem(item, i);
      if (value == nullptr) return nullptr;
      PyObject* place = PyTuple_GET_ITEM(plan.places.get(), i);
      const int set = PyLong_CheckExact(place)
                          ? PyList_SetItem(args.get(), PyLong_AsSsize_t(place), Py_NewRef(value))
                          : PyDict_SetItem(kwargs.get(), place, value);
      if (set < 0) return nullptr;
    }
    PyRef tuple(PyList_AsTuple(args.get()));
    return tuple ? PyObject_Call(plan.callable.get(), tuple.get(), kwargs.get()) : nullptr;
  }

  /// Steals `value`. Promises and awaitables give their values (betterbox._slot.finish).
  PyObject* finished(PyObject* value) {
    if (value == nullptr || !may_be_promise(value)) return value;
    PyRef held(value);
    return PyObject_CallOneArg(finish_.get(), value);
  }

  bool may_be_promise(PyObject* value) {
    PyTypeObject* type = Py_TYPE(value);
    if (type == &_PyNone_Type || type == &PyLong_Type || type == &PyUnicode_Type || type == &PyFloat_Type ||
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
    item_.clear();
    if (result == nullptr && active.plan->single_error) {
      PyErr_Clear();
      item_.assign(PyBytes_AS_STRING(active.plan->single_error.get()),
                   static_cast<std::size_t>(PyBytes_GET_SIZE(active.plan->single_error.get())));
    } else if (result == nullptr || !encode_item(result, "result", item_)) {
      item_ = encode_current_error();
    }
    const SlotOutcome outcome{active.lease.station, active.lease.generation, offset, 1, busy.ns, busy.ns};
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
      fold.value = PyRef(
          PyObject_CallFunctionObjArgs(active.plan->fold.get(), fold.value.get(), result.get(), nullptr));
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
    PyObject *type = nullptr, *value = nullptr, *traceback = nullptr;
    if (fold.value) PyErr_Fetch(&type, &value, &traceback);  // of the item that ended the fold: not ours
    item_.clear();
    if (!fold.value || !encode_item(fold.value.get(), "result", item_)) item_ = encode_current_error();
    const SlotOutcome outcome{active.lease.station, active.lease.generation, fold.first, fold.count,
                              fold.busy.ns,         fold.longest.ns};
    outlet_->write(FromSlot::kOutcome, bytes_of_struct(outcome), bytes_of(item_));
    station.done.store(fold.first + fold.count, std::memory_order_release);
    PyErr_Restore(type, value, traceback);
    fold = Fold{fold.began};
  }

  // --- direct calls ---

  void run_call(const SlotCall& call, std::span<const std::byte> rest) {
    PyRef result(call_method(rest, call.method_size));
    reply(*outlet_, call.token, result.get(), item_);
    if (next_tick_ != TimePoint::never() && monotonic_now() >= next_tick_) tick();
  }

  /// `call`: the method's name, then the page of its arguments.
  PyObject* call_method(std::span<const std::byte> call, std::size_t name_size) {
    PyRef callable(PyObject_CallFunction(direct_.get(), "s#", reinterpret_cast<const char*>(call.data()),
                                         static_cast<Py_ssize_t>(name_size)));
    PyObject *args = nullptr, *kwargs = nullptr;
    if (!callable || !decode_arguments(call.subspan(name_size), args, kwargs)) return nullptr;
    PyRef held_args(args), held_kwargs(kwargs);
    return finished(PyObject_Call(callable.get(), args, kwargs));
  }

  static void reply(Outlet& outlet, std::uint64_t token, PyObject* result, std::string& item) {
    item.clear();
    if (result == nullptr || !encode_item(result, "result", item)) item = encode_current_error();
    outlet.write(FromSlot::kReply, bytes_of_struct(token), bytes_of(item));
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
  };

  void express_call(const SlotCall& call, std::span<const std::byte> rest) {
    const std::string method(reinterpret_cast<const char*>(rest.data()), call.method_size);
    PyObject *args = nullptr, *kwargs = nullptr;
    std::string item;
    if (!decode_arguments(rest.subspan(call.method_size), args, kwargs))
      return reply(*outlet_, call.token, nullptr, item);
    PyRef held_args(args), held_kwargs(kwargs != nullptr ? kwargs : PyDict_New());
    static PyMethodDef definition{"reply", &Slot::reply_from_python, METH_VARARGS,
                                  "Answer this call: (ok, value or exception)."};
    PyRef capsule(PyCapsule_New(new Replier{outlet_, call.token}, nullptr, [](PyObject* self) {
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
    reply(*replier->outlet, replier->token, ok != 0 ? value : nullptr, item);
    Py_RETURN_NONE;
  }

  SlotArena& arena_;
  const SlotOptions options_;
  SlotInbox inbox_;
  std::shared_ptr<Outlet> outlet_;
  PyRef hooks_, direct_, finish_, promise_type_;
  std::map<CallId, Plan> plans_;
  std::deque<ActiveLease> leases_;
  std::deque<Waiting> waiting_;  // bounded: each client has at most kMaxDirectCallsInFlight here
  Waiting current_;
  std::vector<LanePtr> lanes_;
  Spinner spinner_;
  bool chatty_ = false;  // the last thing done was a call through a lane
  Record record_;
  std::string item_;
  TimePoint next_tick_ = TimePoint::never();
  bool stopped_ = false;
  bool has_express_ = false;
  std::atomic<bool> ending_{false};
  std::thread express_;
};

}  // namespace

void run_slot(SlotArena& arena, const SlotOptions& options) {
  Slot slot(arena, options);
  slot.run();
}

}  // namespace betterbox
