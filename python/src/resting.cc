// Compiled without exceptions: pthread_cleanup_push is then a handler of the C library, else a destructor, which is reached by
// unwinding.
#include "python/src/resting.h"

#include <pthread.h>
#include <unistd.h>

#ifdef __EXCEPTIONS
#error "python/CMakeLists.txt compiles this with -fno-exceptions"
#endif

namespace betterbox {
namespace {

[[noreturn]] void rest(void* /*unused*/) {  // never left: leaving it goes on unwinding
  for (;;) ::pause();
}

}  // namespace

bool may_be_ended() { return ::gettid() != ::getpid(); }

void call_or_rest(void (*call)(void*), void* argument) {
  pthread_cleanup_push(rest, nullptr);
  call(argument);
  pthread_cleanup_pop(0);
}

}  // namespace betterbox
