// The worker's end of the socket to its template (worker/template_link.h).
#include "worker/template_link.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/slot_limits.h"

namespace betterbox {

TemplateLink::~TemplateLink() {
  disconnect();
  close_packed();
}

void TemplateLink::connect(int fd, TimePoint now) {
  fd_ = fd;
  heard_ = now;
}

void TemplateLink::disconnect() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  kills_.clear();
  reports_.clear();
  up_ = jammed_ = false;
  under_way_ = taken_ = 0;
}

void TemplateLink::hang_up() { ::shutdown(fd_, SHUT_RDWR); }

void TemplateLink::close_packed() {
  for (const int fd : packed_fds_) ::close(fd);
  packed_fds_.clear();
  packed_.clear();
}

bool TemplateLink::forget_fork(Life life) {
  if (const auto at = std::find(forks_.begin(), forks_.end(), life); at != forks_.end()) {
    forks_.erase(at);
    return true;
  }
  const auto at = std::find_if(packed_.begin(), packed_.end(), [&](const TemplateRequest& request) {
    return Life(request.seat, request.life) == life;
  });
  if (at == packed_.end()) return false;
  const auto fds = packed_fds_.begin() + (at - packed_.begin()) * std::ptrdiff_t{kDescriptorsPerFork};
  for (auto fd = fds; fd != fds + kDescriptorsPerFork; ++fd) ::close(*fd);
  packed_fds_.erase(fds, fds + kDescriptorsPerFork);
  packed_.erase(at);
  return true;
}

bool TemplateLink::waits(Life life) const {
  return std::find(forks_.begin(), forks_.end(), life) != forks_.end() ||
         std::any_of(packed_.begin(), packed_.end(), [&](const TemplateRequest& request) {
           return Life(request.seat, request.life) == life;
         });
}

bool TemplateLink::flush(TimePoint now, const Descriptors& descriptors) {
  if (fd_ < 0 || !up_) return true;
  if (under_way_ == 0) heard_ = now;
  jammed_ = false;
  return (send_kills() && send_forks(descriptors)) || !jammed_;
}

bool TemplateLink::send_kills() {
  while (!kills_.empty()) {
    std::vector<TemplateRequest> packet;
    const std::size_t count = std::min(kills_.size(), kRequestsPerPacket);
    for (std::size_t i = 0; i < count; ++i)
      packet.push_back({TemplateRequest::kKill, kills_[i].first, kills_[i].second});
    if (!write_packet(packet, {})) return false;
    kills_.erase(kills_.begin(), kills_.begin() + static_cast<std::ptrdiff_t>(count));
  }
  return true;
}

bool TemplateLink::send_forks(const Descriptors& descriptors) {
  for (;;) {
    while (!forks_.empty() && packed_.size() < std::min(kForksPerPacket, kForksUnderWay - under_way_)) {
      const Life life = forks_.front();
      forks_.pop_front();
      int fds[kDescriptorsPerFork];
      if (!descriptors(life, fds)) continue;
      packed_.push_back({TemplateRequest::kFork, life.first, life.second});
      packed_fds_.insert(packed_fds_.end(), fds, fds + kDescriptorsPerFork);
    }
    if (packed_.empty()) return true;
    if (!write_packet(packed_, packed_fds_)) return false;
    under_way_ += packed_.size();
    close_packed();
  }
}

/// Where too many descriptors are under way between all processes of this user, it is tried again at the next turn.
bool TemplateLink::write_packet(const std::vector<TemplateRequest>& requests, const std::vector<int>& fds) {
  iovec part{const_cast<TemplateRequest*>(requests.data()), requests.size() * sizeof requests[0]};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kForksPerPacket * kDescriptorsPerFork)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    const std::size_t bytes = fds.size() * sizeof(int);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(bytes);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(bytes);
    std::memcpy(CMSG_DATA(header), fds.data(), bytes);
  }
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) jammed_ = errno == EAGAIN;
  return sent >= 0;
}

TemplateLink::Read TemplateLink::read(TimePoint now, TemplateReport& report, std::string& reason) {
  if (taken_ == reports_.size()) {
    if (fd_ < 0) return Read::kNothing;
    char
        packet[std::max(kReportsPerPacket * sizeof(TemplateReport), sizeof(TemplateReport) + kMaxBrokenText)];
    const ssize_t size = ::recv(fd_, packet, sizeof packet, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return Read::kNothing;
    if (size < static_cast<ssize_t>(sizeof report)) return Read::kClosed;
    std::memcpy(&report, packet, sizeof report);
    const bool broken = report.kind == TemplateReport::kBroken;
    const std::size_t count = broken ? 1 : static_cast<std::size_t>(size) / sizeof report;
    reports_.resize(count);
    std::memcpy(reports_.data(), packet, count * sizeof report);
    taken_ = 0;
    heard_ = now;
    if (broken) reason_.assign(packet + sizeof report, static_cast<std::size_t>(size) - sizeof report);
  }
  report = reports_[taken_++];
  if (report.kind == TemplateReport::kUp) up_ = true;
  if (report.kind == TemplateReport::kForked && under_way_ > 0) --under_way_;
  if (report.kind == TemplateReport::kBroken) reason = reason_;
  return Read::kReport;
}

TimePoint TemplateLink::patience_ends() const {
  if (fd_ >= 0 && !up_) return heard_ + kTemplateStartPatience;
  return under_way_ == 0 ? TimePoint::never() : heard_ + kTemplatePatience;
}

}  // namespace betterbox
