// TemplateSet: a worker's templates, one per interpreter that its slots are: its own, and those of clients that brought
// another. Of those without a slot the least used ends where there are too many.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/frame.h"
#include "worker/template_link.h"

namespace betterbox {

/// The worker's end of one.
struct Template {
  std::uint64_t interpreter = 0;  ///< as contexts name it
  std::string text;               ///< as contexts tell it; empty: the worker's own
  TemplateLink link;
  bool up() const { return link.up(); }
  bool gone = false;  ///< no further one is started,
  std::string error;  ///< and why
  std::uint32_t slots = 0;

 private:
  friend class TemplateSet;
  std::uint32_t fruitless = 0;  // ends in a row before a slot was made
  std::uint32_t watched = 0;    // what epoll waits for on the link
  std::uint64_t used = 0;       // order of uses
  TimePoint gone_since{};
};

class TemplateSet {
 public:
  struct Options {
    /// Starts the template of an interpreter (as contexts name and tell it; no text: the worker's own), after ending the one
    /// before if there is one. Result: the socket to it, which does not block and is taken over, or -1.
    std::function<int(std::uint64_t interpreter, std::string_view text)> start;
    /// One that was started is not needed any more. It ends by itself.
    std::function<void(std::uint64_t interpreter)> end;
    std::uint64_t own = 0;  ///< the worker's interpreter as contexts name it; 0: no other is ever started
  };

  /// Starts the worker's own. `epoll_fd`: sees the links, each with a tag that ends in the byte `tag`.
  TemplateSet(Options options, int epoll_fd, std::uint8_t tag, TimePoint now);

  Template& own() { return *templates_.front(); }
  const Template& own() const { return *templates_.front(); }
  /// What slots of these surroundings are forked from. One that could not be started is the worker's own for a while: slots
  /// will say that it is another.
  Template& of(const Frame& surroundings, TimePoint now);
  /// Of an event's tag. Result: null if it has ended since.
  Template* at(std::uint64_t tag);

  void flush(TimePoint now, const TemplateLink::Descriptors& descriptors);
  /// Those that were asked for something and have not answered for long are ended: at() then reads so.
  void end_silent(TimePoint now);
  /// A slot was made of it.
  static void fruitful(Template& one) { one.fruitless = 0; }
  /// Its link was closed. Another one is started, unless it makes no sense.
  void lost(Template& one, TimePoint now);

 private:
  Template* find(std::uint64_t interpreter);
  void start(Template& one, TimePoint now);
  static void give_up(Template& one, const char* reason, TimePoint now);
  void make_room();
  void watch(Template& one, std::uint32_t events);

  const Options options_;
  const int epoll_fd_;
  const std::uint8_t tag_;
  std::uint64_t uses_ = 0;
  std::vector<std::unique_ptr<Template>> templates_;  // the worker's own first; a place may be empty
};

}  // namespace betterbox
