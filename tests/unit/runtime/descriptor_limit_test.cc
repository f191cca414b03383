// Descriptors: counted before they run out, each in a child with a limit of its own.
#include "runtime/descriptor_limit.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <vector>

#include "runtime/zmq_transport.h"
#include "tests/unit/runtime/transport_events.h"

namespace betterbox {
namespace {

/// Result: what `work` gives in a child whose soft and hard limits these are.
bool under_limits(rlim_t soft, rlim_t hard, const std::function<bool()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{soft, hard};
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) ::_exit(2);
    ::_exit(work() ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int open_files_until_full() {
  int last = -1;
  for (int fd = ::open("/dev/null", O_RDONLY); fd >= 0; fd = ::dup(fd)) last = fd;
  return last;
}

TEST(DescriptorLimitTest, TellsWhetherThatManyAreLeftAlsoWhereHolesAreAmongThem) {
  EXPECT_TRUE(under_limits(100, 100, [] {
    const int last = open_files_until_full();
    if (last != 99 || can_open(1) || !can_open(0)) return false;
    for (const int fd : {40, 60, 99}) ::close(fd);
    return can_open(3) && !can_open(4) && can_open(3);
  }));
}

TEST(DescriptorLimitTest, RaisesTheSoftLimitToTheHardOne) {
  EXPECT_TRUE(under_limits(100, 200, [] {
    raise_descriptor_limit();
    const DescriptorLimit now = descriptor_limit();
    return now.soft == 200 && now.hard == 200;
  }));
}

TEST(DescriptorLimitTest, WhatLacksThemIsAnErrorWithAdvice) {
  EXPECT_TRUE(under_limits(50, 50, [] {
    try {
      require_descriptors(60, "a thing");
    } catch (const std::runtime_error& error) {
      const std::string text = error.what();
      return text.starts_with("a thing needs 60 more descriptors") && text.find("50") != std::string::npos &&
             text.find("LimitNOFILE") != std::string::npos;
    }
    return false;
  }));
}

TEST(ZmqDescriptorTest, AConnectionThatLacksThemIsClosedWithTheReason) {
  EXPECT_TRUE(under_limits(80, 80, [] {
    ZmqTransport transport;
    const int last = open_files_until_full();
    for (int fd = last; fd > last - 5; --fd) ::close(fd);
    transport.connect("ipc:///nowhere");
    const auto end = next_event(transport);
    return end && end->kind == TransportEvent::kClosed &&
           end->reason.find("descriptors") != std::string::npos;
  }));
}

}  // namespace
}  // namespace betterbox
