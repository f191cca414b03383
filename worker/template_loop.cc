// The template's loop (worker/template_loop.h).
#include "worker/template_loop.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <utility>

#include "runtime/slot_limits.h"

namespace betterbox {
namespace {

class TemplateLoop {
 public:
  TemplateLoop(int control_fd, SlotProcesses& slots) : control_fd_(control_fd), slots_(slots) {}

  bool run() {
    TemplateReport up;
    up.kind = TemplateReport::kUp;
    reports_.push_back(up);
    while (open_) {
      write_reports();
      const bool room = reports_.size() < kMaxTemplateReports;
      const auto wanted = static_cast<short>((room ? POLLIN : 0) | (reports_.empty() ? 0 : POLLOUT));
      pollfd entries[2] = {{control_fd_, wanted, 0},
                           {slots_.exits_fd(), static_cast<short>(room ? POLLIN : 0), 0}};
      if (::poll(entries, 2, -1) < 0 && errno != EINTR) break;
      if (entries[1].revents != 0) reap();
      if ((entries[0].revents & (POLLIN | POLLHUP | POLLERR)) != 0 && !take_requests()) return false;
    }
    end();
    return true;
  }

 private:
  using Seat = std::pair<std::uint32_t, std::uint32_t>;  // seat, life

  /// One packet. Result: false in a slot.
  bool take_requests() {
    TemplateRequest requests[kRequestsPerPacket];
    int fds[kForksPerPacket * kDescriptorsPerFork];
    iovec part{requests, sizeof requests};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof fds)];
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t size = ::recvmsg(control_fd_, &message, MSG_CMSG_CLOEXEC);
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) return true;
    if (size <= 0) {
      open_ = false;
      return true;
    }
    std::size_t given = 0;
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    if (header != nullptr && header->cmsg_type == SCM_RIGHTS) {
      given = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      std::memcpy(fds, CMSG_DATA(header), given * sizeof(int));
    }
    bool in_slot = false;
    std::size_t used = 0;
    const auto count = static_cast<std::size_t>(size) / sizeof(TemplateRequest);
    for (std::size_t i = 0; i < count && !in_slot; ++i) {
      const TemplateRequest& request = requests[i];
      if (request.kind == TemplateRequest::kKill) {
        const auto at = pids_.find({request.seat, request.life});
        if (at != pids_.end()) slots_.kill(at->second);
      } else if (request.kind == TemplateRequest::kFork && used + kDescriptorsPerFork <= given) {
        in_slot = fork_slot(request, fds + used);
        used += kDescriptorsPerFork;
      } else if (request.kind == TemplateRequest::kFork) {  // this process could not take all descriptors
        report_fork(request, {0, EMFILE, false});
      }
    }
    if (in_slot) return false;  // the slot has arranged its descriptors anew
    for (std::size_t i = 0; i < given; ++i) ::close(fds[i]);
    return true;
  }

  bool fork_slot(const TemplateRequest& request, const int* fds) {
    const SlotProcesses::Forked forked = slots_.fork(fds);
    if (!forked.in_slot) report_fork(request, forked);
    return forked.in_slot;
  }

  void report_fork(const TemplateRequest& request, const SlotProcesses::Forked& forked) {
    TemplateReport report;
    report.kind = TemplateReport::kForked;
    report.seat = request.seat;
    report.life = request.life;
    report.pid = forked.pid;
    report.status = forked.error;
    if (forked.pid > 0) {
      pids_[{request.seat, request.life}] = forked.pid;
      seats_[forked.pid] = {request.seat, request.life};
    }
    reports_.push_back(report);
  }

  void reap() {
    while (reports_.size() < kMaxTemplateReports) {
      const auto exit = slots_.next_exit();
      if (!exit) return;
      const auto at = seats_.find(exit->pid);
      if (at == seats_.end()) continue;  // an adopted grandchild
      TemplateReport report;
      report.kind = TemplateReport::kExited;
      report.seat = at->second.first;
      report.life = at->second.second;
      report.pid = exit->pid;
      report.status = exit->status;
      report.peak_kib = exit->peak_kib;
      pids_.erase(at->second);
      seats_.erase(at);
      reports_.push_back(report);
    }
  }

  /// What fits into the socket; what happened at the same time shares a packet.
  void write_reports() {
    while (!reports_.empty()) {
      TemplateReport packet[kReportsPerPacket];
      const std::size_t count = std::min(reports_.size(), kReportsPerPacket);
      std::copy_n(reports_.begin(), count, packet);
      const ssize_t sent = ::send(control_fd_, packet, count * sizeof packet[0], MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0) return;  // full; or the worker is gone, which the next look tells
      reports_.erase(reports_.begin(), reports_.begin() + static_cast<std::ptrdiff_t>(count));
    }
  }

  void end() {
    for (const auto& [pid, seat] : seats_) slots_.kill(pid);
    const TimePoint deadline = monotonic_now() + seconds(2);
    while (!seats_.empty() && monotonic_now() < deadline) {
      reports_.clear();
      pollfd entry{slots_.exits_fd(), POLLIN, 0};
      ::poll(&entry, 1, 100);
      reap();
    }
    slots_.kill_adopted();
  }

  const int control_fd_;
  SlotProcesses& slots_;
  bool open_ = true;
  std::deque<TemplateReport> reports_;  // not sent yet
  std::map<Seat, pid_t> pids_;
  std::map<pid_t, Seat> seats_;
};

}  // namespace

bool run_template(int control_fd, SlotProcesses& slots) {
  TemplateLoop self(control_fd, slots);
  return self.run();
}

void report_broken(int control_fd, std::string_view reason) {
  TemplateReport report;
  report.kind = TemplateReport::kBroken;
  std::string packet(reinterpret_cast<const char*>(&report), sizeof report);
  packet += reason.substr(0, kMaxBrokenText);
  // The socket is empty: nothing was said before.
  [[maybe_unused]] const ssize_t sent = ::send(control_fd, packet.data(), packet.size(), MSG_NOSIGNAL);
}

}  // namespace betterbox
