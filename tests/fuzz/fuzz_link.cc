// libFuzzer target: what the other end of a direct link writes, in pieces of any size: its token, which is read in the lobby,
// then messages. Whole ones arrive as they were sent; sizes beyond the limits are refused; nothing else is made of it.
// Input: operations of a few bytes each.
#include <sys/socket.h>
#include <unistd.h>

#include <deque>
#include <memory>
#include <utility>

#include "runtime/check.h"
#include "runtime/limits.h"
#include "runtime/link_lobby.h"
#include "tests/fuzz/input.h"

namespace betterbox {
namespace {

constexpr char kNoHead = 16;

class Bench {
 public:
  explicit Bench(fuzz::Input& input) : input_(input) {
    BB_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends_) == 0);
    lobby_.enter(ends_[0], TimePoint{0});
  }
  ~Bench() { ::close(ends_[1]); }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  void run() {
    while (!input_.empty() && !over_) {
      switch (input_.below(8)) {
        case 0: send_message(); break;
        case 1:
          if (input_.below(8) == 0) send_claims();
          break;
        case 2:
          if (hostile_) pending_.append(input_.byte(), kNoHead);
          break;
        case 3:
        case 4:
        case 5: write(input_.word(2)); break;
        default: read();
      }
    }
    while (!over_ && !pending_.empty()) write(pending_.size()), read();
    if (!over_) read();
    BB_CHECK(hostile_ || over_ || !link_ || sent_.empty());
  }

 private:
  void send_message() {
    if (hostile_) return;
    Frames frames(1 + input_.below(4));
    for (Frame& frame : frames)
      frame = Frame(std::string(input_.below(8) == 0 ? 20'000 + input_.byte() : input_.byte(), 'f'));
    head_of(frames.size());
    for (const Frame& frame : frames) put(std::uint64_t{frame.size()});
    for (const Frame& frame : frames) pending_ += frame.view();
    sent_.push_back(std::move(frames));
  }

  /// A head that says what does not come; behind it come only bytes that are no head. (Sizes that are large but allowed
  /// cost the reader nothing but addresses. Here they would cost a shadow of them, so there are none.)
  void send_claims() {
    if (std::exchange(hostile_, true)) return;
    const std::uint64_t count = input_.number();
    head_of(count);
    for (std::uint64_t i = 0; i < std::min<std::uint64_t>(count, 5); ++i) {
      const std::uint64_t size = input_.number();
      put(size > (1U << 17) ? kMaxFrameBytes + 1 : size);
    }
  }

  void head_of(std::uint64_t count) {
    if (!std::exchange(token_sent_, true)) pending_ += "8letters";
    put(static_cast<std::uint32_t>(count)), put(std::uint32_t{0});
  }
  template <class T> void put(T value) {
    pending_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }

  void write(std::size_t most) {
    const ssize_t count = ::send(ends_[1], pending_.data(), std::min(most, pending_.size()), MSG_NOSIGNAL);
    if (count > 0) pending_.erase(0, static_cast<std::size_t>(count));
  }

  void read() {
    if (!link_ && !enter()) return;
    for (;;) {
      link_->wake();
      Frames frames;
      const DirectLink::Reading reading = link_->read(frames);
      if (reading == DirectLink::Reading::kDry) return;
      over_ = reading != DirectLink::Reading::kMessage;
      BB_CHECK(!over_ || hostile_);
      if (over_) return;
      BB_CHECK(!frames.empty() && frames.size() <= kMaxFrames + 1);
      if (hostile_) continue;
      BB_CHECK(!sent_.empty() && frames == sent_.front());
      sent_.pop_front();
    }
  }

  bool enter() {
    LinkToken token;
    const auto reading = lobby_.read(ends_[0], token);
    if (reading == LinkLobby::Reading::kDry) return false;
    BB_CHECK(reading == LinkLobby::Reading::kNamed);
    const int fd = lobby_.take(token);
    BB_CHECK(fd == ends_[0] && lobby_.empty());
    link_ = std::make_unique<DirectLink>(fd);
    return true;
  }

  fuzz::Input& input_;
  int ends_[2] = {-1, -1};
  LinkLobby lobby_{4};
  std::unique_ptr<DirectLink> link_;
  std::string pending_;      // said, not written yet
  std::deque<Frames> sent_;  // messages that must arrive
  bool token_sent_ = false, hostile_ = false, over_ = false;
};

}  // namespace
}  // namespace betterbox

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  betterbox::fuzz::Input input(data, std::min<std::size_t>(size, 2048));
  betterbox::Bench(input).run();
  return 0;
}
