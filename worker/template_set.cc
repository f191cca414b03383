// The worker's templates (worker/template_set.h).
#include "worker/template_set.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "runtime/slot_limits.h"
#include "worker/context_head.h"

namespace betterbox {

TemplateSet::TemplateSet(Options options, int epoll_fd, std::uint8_t tag, TimePoint now)
    : options_(std::move(options)), epoll_fd_(epoll_fd), tag_(tag) {
  templates_.push_back(std::make_unique<Template>());
  own().interpreter = options_.own;
  start(own(), now);
}

Template* TemplateSet::find(std::uint64_t interpreter) {
  const auto at = std::find_if(templates_.begin(), templates_.end(), [&](const auto& one) {
    return one != nullptr && one->interpreter == interpreter;
  });
  return at == templates_.end() ? nullptr : at->get();
}

Template& TemplateSet::of(const Frame& surroundings, TimePoint now) {
  const ContextHead head = ContextHead::of(surroundings);
  if (options_.own == 0 || head.interpreter == 0 || head.interpreter == options_.own) return own();
  Template* found = find(head.interpreter);
  if (found == nullptr) {
    make_room();
    auto place = std::find(templates_.begin(), templates_.end(), nullptr);
    if (place == templates_.end()) place = templates_.insert(place, nullptr);
    *place = std::make_unique<Template>();
    found = place->get();
    found->interpreter = head.interpreter;
    found->text = ContextHead::interpreter_text(surroundings);
    start(*found, now);
  } else if (found->gone && now - found->gone_since >= kTemplateRetry) {
    found->error.clear();
    found->fruitless = 0;
    start(*found, now);
  }
  found->used = ++uses_;
  return found->gone ? own() : *found;
}

Template* TemplateSet::at(std::uint64_t tag) {
  const std::uint64_t place = tag >> 8;
  return place < templates_.size() ? templates_[place].get() : nullptr;
}

/// Those with slots are no more than there are seats.
void TemplateSet::make_room() {
  const auto others =
      std::count_if(templates_.begin() + 1, templates_.end(), [](const auto& one) { return one != nullptr; });
  if (static_cast<std::size_t>(others) < kMaxTemplates) return;
  std::unique_ptr<Template>* least = nullptr;
  for (auto one = templates_.begin() + 1; one != templates_.end(); ++one) {
    if (*one != nullptr && (*one)->slots == 0 && (least == nullptr || (*one)->used < (*least)->used))
      least = &*one;
  }
  if (least == nullptr) return;
  options_.end((*least)->interpreter);
  least->reset();
}

void TemplateSet::start(Template& one, TimePoint now) {
  const int fd = options_.start(one.interpreter, one.text);
  if (fd < 0) return give_up(one, "the process that forks slots cannot be started", now);
  one.gone = false;
  one.link.connect(fd, now);
  one.watched = 0;
  watch(one, EPOLLIN);
}

void TemplateSet::watch(Template& one, std::uint32_t events) {
  if (one.link.fd() < 0 || one.watched == events) return;
  const auto place = std::find_if(templates_.begin(), templates_.end(),
                                  [&](const auto& other) { return other.get() == &one; });
  epoll_event event{};
  event.events = events;
  event.data.u64 = static_cast<std::uint64_t>(place - templates_.begin()) << 8 | tag_;
  const int what = one.watched == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
  if (::epoll_ctl(epoll_fd_, what, one.link.fd(), &event) != 0)
    throw std::system_error(errno, std::generic_category(), "epoll");
  one.watched = events;
}

void TemplateSet::flush(TimePoint now, const TemplateLink::Descriptors& descriptors) {
  for (const auto& one : templates_) {
    if (one == nullptr) continue;
    const bool sent = one->link.flush(now, descriptors);
    watch(*one, sent ? std::uint32_t{EPOLLIN} : std::uint32_t{EPOLLIN | EPOLLOUT});
  }
}

void TemplateSet::end_silent(TimePoint now) {
  for (const auto& one : templates_) {
    if (one == nullptr || one->link.patience_ends() > now) continue;
    if (!one->up()) one->error = "the interpreter did not start in time";
    one->link.hang_up();
  }
}

void TemplateSet::lost(Template& one, TimePoint now) {
  if (!one.error.empty() || ++one.fruitless >= kMaxFruitlessTemplates)
    return give_up(one, "the process that forks slots is gone", now);
  start(one, now);
}

void TemplateSet::give_up(Template& one, const char* reason, TimePoint now) {
  if (one.error.empty()) one.error = reason;
  one.gone = true;
  one.gone_since = now;
}

}  // namespace betterbox
