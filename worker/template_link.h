// TemplateLink: the worker's end of the socket to its template (worker/template_loop.h).
//
// Guarantees: nothing here waits. Forks wait in order while kForksUnderWay are under way, so that the socket never fills
// with them and a kill comes soon; kills go before forks that wait. Both are bounded: a seat has one fork that waits, a
// life is killed once.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/time.h"
#include "worker/template_messages.h"

namespace betterbox {

class TemplateLink {
 public:
  using Life = std::pair<std::uint32_t, std::uint32_t>;  // seat, life
  /// Gives the descriptors that go with a fork (kDescriptorsPerFork of them, which are taken over). Result: false if there
  /// are none: this slot is not forked.
  using Descriptors = std::function<bool(Life, int* fds)>;

  TemplateLink() = default;
  ~TemplateLink();
  TemplateLink(const TemplateLink&) = delete;
  TemplateLink& operator=(const TemplateLink&) = delete;

  /// Takes over the socket to a template that has just been started. Forks that wait are for it.
  void connect(int fd, TimePoint now);
  /// The template is gone, with all that it had forked.
  void disconnect();
  /// Nothing more goes either way: read() gives kClosed.
  void hang_up();
  int fd() const { return fd_; }

  void ask_fork(Life life) { forks_.push_back(life); }
  void ask_kill(Life life) { kills_.push_back(life); }
  /// Takes a fork back that was not asked for yet. Result: false if it was.
  bool forget_fork(Life life);
  /// True if it was not asked for yet.
  bool waits(Life life) const;

  /// Sends what can be sent now. Result: false if the rest waits for the socket.
  bool flush(TimePoint now, const Descriptors& descriptors);
  enum class Read { kReport, kNothing, kClosed };
  /// The next report. `reason` is set for kBroken.
  Read read(TimePoint now, TemplateReport& report, std::string& reason);
  /// Its template can fork.
  bool up() const { return up_; }
  /// When a template that says nothing is given up.
  TimePoint patience_ends() const;

 private:
  bool write_packet(const std::vector<TemplateRequest>& requests, const std::vector<int>& fds);
  bool send_kills();
  bool send_forks(const Descriptors& descriptors);
  void close_packed();

  int fd_ = -1;
  bool up_ = false;
  bool jammed_ = false;
  std::deque<Life> forks_;
  std::deque<Life> kills_;
  std::vector<TemplateRequest> packed_;  // forks of the next packet, with
  std::vector<int> packed_fds_;          // their descriptors
  std::size_t under_way_ = 0;            // forks that were asked for and not told
  TimePoint heard_{};                    // or its start, or the first request since nothing was under way
  std::vector<TemplateReport> reports_;  // read, not taken
  std::size_t taken_ = 0;
  std::string reason_;
};

}  // namespace betterbox
