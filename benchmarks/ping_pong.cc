// The least that a call to another process can cost: a request of two frames, as large as those of a no-op call, and
// its answer, to a forked process that sends back what it gets. `ping_pong zmq|socket COUNT` prints one JSON object.
//
// zmq: DEALER to ROUTER over ipc, plain sends and receives. socket: a Unix stream socket, blocking reads.
// The answering process ends with this one: its end of the socket closes, or the kernel tells it.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>
#include <zmq.hpp>

namespace {

constexpr std::size_t kHeadBytes = 48;      // the first frame of a call and of its answer
constexpr std::size_t kArgumentBytes = 24;  // the pickled arguments of a no-op, and its result
constexpr int kWarmUp = 500;

template <class Call> void measure(int count, Call call) {
  std::vector<double> took;
  took.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < kWarmUp; ++i) call();
  for (int i = 0; i < count; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    took.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(took.begin(), took.end());
  std::printf("{\"call p50\": %.3f, \"call p99\": %.3f}\n", took[took.size() / 2],
              took[took.size() * 99 / 100]);
}

/// Forks; the child runs `serve` and ends, at the latest when its parent does.
template <class Serve> pid_t fork_server(Serve serve) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  serve();
  std::_Exit(0);
}

void exchange(zmq::socket_t& socket) {
  socket.send(zmq::message_t(std::string(kHeadBytes, 'h')), zmq::send_flags::sndmore);
  socket.send(zmq::message_t(std::string(kArgumentBytes, 'a')), zmq::send_flags::none);
  zmq::message_t head;
  zmq::message_t result;
  if (!socket.recv(head) || !socket.recv(result) || result.size() != kArgumentBytes) std::abort();
}

void answer_forever(const std::string& address) {
  zmq::context_t context(1);
  zmq::socket_t router(context, zmq::socket_type::router);
  router.bind(address);
  for (;;) {
    std::array<zmq::message_t, 3> frames;
    for (auto& frame : frames) {
      if (!router.recv(frame)) return;
    }
    router.send(frames[0], zmq::send_flags::sndmore);
    router.send(frames[1], zmq::send_flags::sndmore);
    router.send(frames[2], zmq::send_flags::none);
  }
}

int over_zmq(int count) {
  std::string folder = "/tmp/ping-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) return 1;
  const std::string file = folder + "/socket";
  const pid_t server = fork_server([&] { answer_forever("ipc://" + file); });
  {
    zmq::context_t context(1);
    zmq::socket_t dealer(context, zmq::socket_type::dealer);
    dealer.set(zmq::sockopt::linger, 0);
    dealer.connect("ipc://" + file);
    measure(count, [&] { exchange(dealer); });
  }
  ::kill(server, SIGKILL);
  ::waitpid(server, nullptr, 0);
  ::unlink(file.c_str());
  ::rmdir(folder.c_str());
  return 0;
}

bool read_all(int fd, char* into, std::size_t bytes) {
  for (std::size_t got = 0; got < bytes;) {
    const ssize_t piece = ::read(fd, into + got, bytes - got);
    if (piece <= 0) return false;
    got += static_cast<std::size_t>(piece);
  }
  return true;
}

int over_socket(int count) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) != 0) return 1;
  std::array<char, kHeadBytes + kArgumentBytes> message{};
  const pid_t server = fork_server([&] {
    ::close(ends[0]);
    while (read_all(ends[1], message.data(), message.size())) {
      if (::write(ends[1], message.data(), message.size()) < 0) return;
    }
  });
  ::close(ends[1]);
  measure(count, [&] {
    if (::write(ends[0], message.data(), message.size()) < 0) std::abort();
    if (!read_all(ends[0], message.data(), message.size())) std::abort();
  });
  ::close(ends[0]);
  ::waitpid(server, nullptr, 0);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view carrier = argc == 3 ? argv[1] : "";
  const int count = argc == 3 ? std::atoi(argv[2]) : 0;
  if (count < 1 || (carrier != "zmq" && carrier != "socket")) {
    std::fputs("usage: ping_pong zmq|socket COUNT\n", stderr);
    return 2;
  }
  return carrier == "zmq" ? over_zmq(count) : over_socket(count);
}
