// Which interpreter slots are forked from (worker/template_set.h), and how a client tells its own (worker/interpreter.h).
#include "worker/template_set.h"

#include <gmock/gmock.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/slot_limits.h"
#include "worker/context_head.h"
#include "worker/interpreter.h"

namespace betterbox {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using namespace std::string_literals;

Frame context(std::uint64_t interpreter, const std::string& text, const std::string& body = "body") {
  const std::uint64_t numbers[2] = {7, interpreter};
  const std::uint32_t sizes[2] = {static_cast<std::uint32_t>(text.size()),
                                  static_cast<std::uint32_t>(body.size())};
  return Frame(std::string(reinterpret_cast<const char*>(numbers), sizeof numbers) +
               std::string(reinterpret_cast<const char*>(sizes), sizeof sizes) + text + body + "the rest");
}

TEST(ContextHead, TellsTheInterpreterAndWhatASlotGetsAtItsStart) {
  const Frame whole = context(5, "text");
  const ContextHead head = ContextHead::of(whole);
  EXPECT_EQ(head.birth, 7u);
  EXPECT_EQ(head.interpreter, 5u);
  EXPECT_EQ(head.surroundings.size() + 8, whole.size());
  EXPECT_EQ(ContextHead::interpreter_text(whole), "text");
  EXPECT_EQ(ContextHead::interpreter_text(head.surroundings), "text");
}

TEST(ContextHead, IsNoneWhereAnyOfItIsMissing) {
  const Frame whole = context(5, "text");
  for (std::size_t size = 0; size + 8 < whole.size(); ++size) {
    EXPECT_EQ(ContextHead::of(whole.slice(0, size)).birth, 0u) << size;
    EXPECT_EQ(ContextHead::interpreter_text(whole.slice(0, size)), "") << size;
  }
}

TEST(Interpreter, IsReadFromItsText) {
  const auto read = Interpreter::parse("/bin/python\0/packages\0host 7\0-O\0-X\0dev\0\0PYTHONHOME=/opt\0\0"s);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->program, "/bin/python");
  EXPECT_EQ(read->package, "/packages");
  EXPECT_EQ(read->host, "host 7");
  EXPECT_THAT(read->flags, ElementsAre("-O", "-X", "dev"));
  EXPECT_THAT(read->variables, ElementsAre("PYTHONHOME=/opt"));
}

TEST(Interpreter, IsNoneWhereTheTextIsCutOrGoesOn) {
  const std::string text = "/bin/python\0/packages\0host\0-O\0\0A=b\0\0"s;
  ASSERT_TRUE(Interpreter::parse(text));
  for (std::size_t size = 0; size < text.size(); ++size)
    EXPECT_FALSE(Interpreter::parse(std::string_view(text).substr(0, size))) << size;
  EXPECT_FALSE(Interpreter::parse(text + "x"));
  EXPECT_FALSE(Interpreter::parse("\0\0\0\0\0"s)) << "no program";
}

class Templates : public ::testing::Test {
 protected:
  ~Templates() override {
    for (const auto& [interpreter, fd] : far_ends_) ::close(fd);
    ::close(epoll_fd_);
  }
  void make(std::uint64_t own) {
    TemplateSet::Options options;
    options.own = own;
    options.start = [this](std::uint64_t interpreter, std::string_view text) {
      started_.push_back(std::string(text));
      if (text == "missing") return -1;
      int ends[2];
      EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
      far_ends_[interpreter] = ends[1];
      return ends[0];
    };
    options.end = [this](std::uint64_t interpreter) { ended_.push_back(interpreter); };
    set_.emplace(options, epoll_fd_, std::uint8_t{2}, now_);
  }
  Template& of(std::uint64_t interpreter, const std::string& text) {
    return set_->of(context(interpreter, text), now_);
  }

  int epoll_fd_ = ::epoll_create1(EPOLL_CLOEXEC);
  std::map<std::uint64_t, int> far_ends_;
  std::vector<std::string> started_;
  std::vector<std::uint64_t> ended_;
  std::optional<TemplateSet> set_;
  TimePoint now_{1};
};

TEST_F(Templates, AreOneForEachInterpreterThatCallsName) {
  make(5);
  EXPECT_EQ(&of(5, "own"), &set_->own());
  EXPECT_EQ(&of(0, ""), &set_->own()) << "not told";
  EXPECT_EQ(&set_->of(Frame(), now_), &set_->own());
  Template& other = of(6, "six");
  EXPECT_NE(&other, &set_->own());
  EXPECT_EQ(&of(6, "six"), &other);
  EXPECT_NE(&of(7, "seven"), &other);
  EXPECT_THAT(started_, ElementsAre("", "six", "seven"));
}

TEST_F(Templates, AreTheWorkersAloneWhereItFollowsNobody) {
  make(0);
  EXPECT_EQ(&of(6, "six"), &set_->own());
  EXPECT_THAT(started_, ElementsAre(""));
}

TEST_F(Templates, WithoutASlotEndWhenThereAreTooMany) {
  make(5);
  of(10, "ten").slots = 1;
  for (std::uint64_t i = 1; i < kMaxTemplates; ++i) of(10 + i, "more");
  of(11, "more");  // so 12 was used longest ago
  EXPECT_THAT(ended_, IsEmpty());
  of(99, "one too many");
  EXPECT_THAT(ended_, ElementsAre(12));
}

TEST_F(Templates, ThatCannotBeStartedAreTriedAgainAfterAWhile) {
  make(5);
  EXPECT_EQ(&of(6, "missing"), &set_->own());
  EXPECT_EQ(&of(6, "missing"), &set_->own());
  EXPECT_THAT(started_, ElementsAre("", "missing"));
  now_ = now_ + kTemplateRetry;
  EXPECT_EQ(&of(6, "missing"), &set_->own());
  EXPECT_THAT(started_, ElementsAre("", "missing", "missing"));
}

TEST_F(Templates, ThatDoNotStartInTimeAreEnded) {
  make(5);
  Template& other = of(6, "six");
  set_->end_silent(now_ + (kTemplateStartPatience - milliseconds(1)));
  EXPECT_EQ(other.error, "");
  set_->end_silent(now_ + kTemplateStartPatience);
  EXPECT_EQ(other.error, "the interpreter did not start in time");
  TemplateReport report;
  std::string reason;
  EXPECT_EQ(other.link.read(now_, report, reason), TemplateLink::Read::kClosed);
  other.link.disconnect();
  set_->lost(other, now_);
  EXPECT_TRUE(other.gone);
}

TEST_F(Templates, AreFoundByTheTagsOfTheirEvents) {
  make(5);
  Template& other = of(6, "six");
  ::close(far_ends_[6]);
  far_ends_.erase(6);
  epoll_event event{};
  ASSERT_EQ(::epoll_wait(epoll_fd_, &event, 1, 1000), 1);
  EXPECT_EQ(event.data.u64 & 0xff, 2u);
  EXPECT_EQ(set_->at(event.data.u64), &other);
  EXPECT_EQ(set_->at(event.data.u64 + 256), nullptr);
}

}  // namespace
}  // namespace betterbox
