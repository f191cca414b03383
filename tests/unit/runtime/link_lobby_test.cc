// Links whose connections are not known yet: a crowd that says nothing keeps nobody out.
#include "runtime/link_lobby.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vector>

namespace betterbox {
namespace {

class LinkLobbyTest : public ::testing::Test {
 protected:
  ~LinkLobbyTest() override {
    for (const int fd : callers_) ::close(fd);
  }
  /// Result: the number of the caller; its link is in the lobby.
  std::size_t come(TimePoint now) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    callers_.push_back(ends[0]);
    links_.push_back(ends[1]);
    lobby_.enter(ends[1], now);
    return callers_.size() - 1;
  }
  void say(std::size_t caller, const char* bytes, std::size_t size) {
    EXPECT_EQ(::send(callers_[caller], bytes, size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
  }
  bool is_turned_away(std::size_t caller) {
    char byte = 0;
    return ::recv(callers_[caller], &byte, 1, MSG_DONTWAIT) == 0;
  }

  LinkLobby lobby_{3};
  std::vector<int> callers_, links_;
  LinkToken token_{};
};

TEST_F(LinkLobbyTest, WhoNamesItselfIsTakenOnce) {
  const std::size_t caller = come({1});
  EXPECT_EQ(lobby_.read(links_[caller], token_), LinkLobby::Reading::kDry);
  say(caller, "tok", 3);
  EXPECT_EQ(lobby_.read(links_[caller], token_), LinkLobby::Reading::kDry);
  say(caller, "en-77and more", 13);
  EXPECT_EQ(lobby_.read(links_[caller], token_), LinkLobby::Reading::kNamed);
  EXPECT_EQ(lobby_.take(token_), links_[caller]);
  EXPECT_EQ(lobby_.take(token_), -1);
  EXPECT_TRUE(lobby_.empty());
  ::close(links_[caller]);
}

TEST_F(LinkLobbyTest, TheOldestGoesWhenThereAreTooMany) {
  for (int i = 0; i < 5; ++i) come({i});
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(is_turned_away(i), i < 2) << i;
}

TEST_F(LinkLobbyTest, EveryLinkHasAnAge) {
  const std::size_t silent = come({10}), named = come({20}), young = come({30});
  say(named, "12345678", 8);
  EXPECT_EQ(lobby_.read(links_[named], token_), LinkLobby::Reading::kNamed);
  lobby_.expire({30});
  EXPECT_TRUE(is_turned_away(silent));
  EXPECT_TRUE(is_turned_away(named));
  EXPECT_FALSE(is_turned_away(young));
  EXPECT_EQ(lobby_.take(token_), -1);
}

TEST_F(LinkLobbyTest, TwoOfOneTokenAreOneTooMany) {
  const std::size_t first = come({1}), second = come({2});
  for (const std::size_t caller : {first, second}) say(caller, "12345678", 8);
  EXPECT_EQ(lobby_.read(links_[first], token_), LinkLobby::Reading::kNamed);
  EXPECT_EQ(lobby_.read(links_[second], token_), LinkLobby::Reading::kGone);
  EXPECT_TRUE(is_turned_away(second));
  EXPECT_EQ(lobby_.take(token_), links_[first]);
  ::close(links_[first]);
}

TEST_F(LinkLobbyTest, WhoLeavesIsForgotten) {
  const std::size_t caller = come({1});
  ::shutdown(callers_[caller], SHUT_WR);
  EXPECT_EQ(lobby_.read(links_[caller], token_), LinkLobby::Reading::kGone);
  EXPECT_TRUE(lobby_.empty());
}

}  // namespace
}  // namespace betterbox
