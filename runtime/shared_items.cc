#include "runtime/shared_items.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

namespace betterbox {
namespace {

template <class T> void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

template <class T> bool read(ItemBytes& rest, T& value) {
  if (rest.size() < sizeof value) return false;
  std::memcpy(&value, rest.data(), sizeof value);
  rest = rest.subspan(sizeof value);
  return true;
}

class Taken;

/// What this process has taken and not let go, by name: the owner may have removed the name since.
struct TakenOnes {
  std::mutex mutex;
  std::map<std::string, std::weak_ptr<const Taken>, std::less<>> by_name;
};

TakenOnes& taken() {
  static auto* all = new TakenOnes;  // outlives whatever is released when the process ends
  return *all;
}

class Taken {
 public:
  Taken(std::string name, std::shared_ptr<const HeldSegment> held)
      : name_(std::move(name)), held_(std::move(held)) {}
  ~Taken() {
    const std::lock_guard lock(taken().mutex);
    const auto own = taken().by_name.find(name_);
    if (own != taken().by_name.end() && own->second.expired()) taken().by_name.erase(own);
  }
  Taken(const Taken&) = delete;
  Taken& operator=(const Taken&) = delete;

  const std::shared_ptr<const HeldSegment>& held() const { return held_; }

 private:
  const std::string name_;
  const std::shared_ptr<const HeldSegment> held_;
};

std::shared_ptr<const Taken> find_taken(std::string_view name) {
  const std::lock_guard lock(taken().mutex);
  const auto found = taken().by_name.find(name);
  return found == taken().by_name.end() ? nullptr : found->second.lock();
}

/// What comes a second time has been taken already.
std::shared_ptr<const Taken> take(const SharedItemView& item) {
  if (auto known = find_taken(item.name)) return known;
  std::string name(item.name);
  auto held = HeldSegment::open(kSegmentFolder, name, item.serial, item.end(), true);
  if (!held) return nullptr;
  auto own = std::make_shared<const Taken>(name, std::move(held));
  const std::lock_guard lock(taken().mutex);
  taken().by_name[name] = own;
  return own;
}

bool is_shared(ItemBytes item) { return item[0] == std::byte{static_cast<std::uint8_t>(ItemTag::kShared)}; }

}  // namespace

std::uint64_t SharedItemView::end() const {
  std::uint64_t end = 0;
  for (const auto& [offset, size] : parts) end = std::max(end, offset + size);
  return end;
}

std::optional<SharedItemView> parse_shared_item(ItemBytes item) {
  if (item.empty() || !is_shared(item)) return std::nullopt;
  SharedItemView view;
  std::uint8_t form = 0;
  std::uint32_t count = 0, name_size = 0;
  ItemBytes rest = item.subspan(1);
  if (!read(rest, form) || !read(rest, count) || !read(rest, view.serial) || !read(rest, name_size) ||
      rest.size() < name_size) {
    return std::nullopt;
  }
  view.form = static_cast<ItemTag>(form);
  view.name = {reinterpret_cast<const char*>(rest.data()), name_size};
  rest = rest.subspan(name_size);
  std::uint32_t store_size = 0;
  if (!read(rest, store_size) || rest.size() < store_size) return std::nullopt;
  view.store = {reinterpret_cast<const char*>(rest.data()), store_size};
  rest = rest.subspan(store_size);
  const bool many = view.form == ItemTag::kPickleBuffers;
  if (!many && ((view.form != ItemTag::kBytes && view.form != ItemTag::kArray) || count != 1))
    return std::nullopt;
  if (rest.size() / 16 < count) return std::nullopt;
  view.parts.resize(count);
  for (auto& [offset, size] : view.parts) {
    std::uint64_t end = 0;
    if (!read(rest, offset) || !read(rest, size) || __builtin_add_overflow(offset, size, &end))
      return std::nullopt;
  }
  view.rest = rest;
  return view;
}

void append_shared_item(std::string& out, ItemTag form, const std::vector<SegmentRef>& parts) {
  out.push_back(static_cast<char>(ItemTag::kShared));
  out.push_back(static_cast<char>(form));
  append(out, static_cast<std::uint32_t>(parts.size()));
  append(out, parts.front().serial);
  append(out, static_cast<std::uint32_t>(parts.front().name.size()));
  out += parts.front().name;
  const std::string store = store_id();
  append(out, static_cast<std::uint32_t>(store.size()));
  out += store;
  for (const SegmentRef& part : parts) append(out, part.offset), append(out, part.size);
}

std::shared_ptr<const HeldSegment> held_for(const SharedItemView& item) {
  if (const auto known = find_taken(item.name)) return known->held();
  return HeldSegment::open(kSegmentFolder, std::string(item.name), item.serial, item.end());
}

Frame take_shared(Frame page, std::uint64_t first) {
  if (!PageView::may_refer(page.bytes())) return page;
  const auto view = PageView::parse(page.bytes());
  if (!view) return page;
  auto holds = std::make_shared<std::vector<std::shared_ptr<const void>>>();
  std::vector<std::uint64_t> gone;
  for (std::uint64_t i = 0; i < view->count(); ++i) {
    if (!is_shared(view->item(i))) continue;
    const auto item = parse_shared_item(view->item(i));
    auto hold = item ? take(*item) : nullptr;
    hold ? holds->push_back(std::move(hold)) : gone.push_back(i);
  }
  if (gone.empty()) return with_hold(page, std::move(holds));
  PageBuilder others;
  for (std::uint64_t i = 0; i < view->count(); ++i) {
    const std::string lost =
        make_lost_item(LostCode::kWorkerLost, first + i, {},
                       "its value lay in shared memory and is gone: it was not fetched in time, "
                       "or /dev/shm was emptied");
    others.add(std::binary_search(gone.begin(), gone.end(), i) ? std::as_bytes(std::span(lost))
                                                               : view->item(i));
  }
  return with_hold(others.finish(), std::move(holds));  // of a fold, too: one item that stands for all
}

std::optional<std::vector<SegmentRef>> KeptBuffers::put(Parts parts) {
  auto lease = segment_pool()->write(parts);
  if (!lease) return std::nullopt;
  for (const auto& part : parts) bytes_ += part.size();
  holds_.push_back(std::move(lease->hold));
  const SegmentRef& last = lease->parts.back();
  if (min_bytes_ >= kBroadcastMinBytes) values_.push_back({last.name, last.serial, last.offset + last.size});
  return std::move(lease->parts);
}

std::shared_ptr<const void> KeptBuffers::hold() {
  bytes_ = 0;
  if (holds_.empty()) return nullptr;
  return std::make_shared<const std::vector<std::shared_ptr<const void>>>(std::exchange(holds_, {}));
}

Frame with_hold(const Frame& frame, std::shared_ptr<const void> hold) {
  auto both = std::make_shared<const std::pair<Frame, std::shared_ptr<const void>>>(frame, std::move(hold));
  return Frame(std::move(both), frame.data(), frame.size());
}

}  // namespace betterbox
