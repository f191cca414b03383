// Linked into the programs that listen: their accept4() stands before the C library's also for libzmq, whose listener of
// Unix sockets aborts the process on EMFILE (its TCP listener does not). Descriptors run out where peers connect without
// greeting, which needs no key; they come back when the handshakes have taken too long, and who connects waits in the
// listener's queue until then. ENFILE says the same, and libzmq bears it. It would ask again at once, a whole core for nothing,
// so it waits a moment here: connections that are there go on, each some milliseconds later.

#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>

extern "C" int accept4(int listener, sockaddr* address, socklen_t* size, int flags) {
  const long accepted = ::syscall(SYS_accept4, listener, address, size, flags);
  if (accepted < 0 && (errno == EMFILE || errno == ENFILE)) {
    constexpr timespec kMoment{0, 10'000'000};
    ::nanosleep(&kMoment, nullptr);
    errno = ENFILE;
  }
  return static_cast<int>(accepted);
}
