// An interpreter that ends ends each other thread that asks for its lock, by pthread_exit() (until Python 3.13), which unwinds the
// stack: through destructors that need the lock, and through functions that let nothing out (std::terminate). So a thread that
// has C++ below it never unwinds: it rests where it asked, until the process ends.
//
// The C library unwinds by libgcc_s. A module that has an unwinder of its own within, as wheels do, must not meet it: a clean-up
// handler of the C library runs before any frame of C++ is looked at, so nothing of it is ever unwound.
#pragma once

#include <type_traits>

namespace betterbox {

/// `call(argument)`, during which a thread that is ended rests. REQUIRES: `call` lets no exception out.
void call_or_rest(void (*call)(void*), void* argument);

/// False on the thread that an interpreter ends on: what runs there once per item need not be ready to rest.
bool may_be_ended();

/// What `call` gives. If the interpreter ends this thread in it, the thread rests.
/// REQUIRES: `call` calls Python's C interface and nothing else: no exceptions, nothing to destroy.
template <class Call> auto rest_if_ended(Call&& call) {
  using Function = std::remove_reference_t<Call>;
  using Result = decltype(call());
  if constexpr (std::is_void_v<Result>) {
    call_or_rest([](void* function) { (*static_cast<Function*>(function))(); }, &call);
  } else {
    struct Both {
      Function& function;
      Result result;
    } both{call, {}};
    call_or_rest(
        [](void* argument) {
          Both& to = *static_cast<Both*>(argument);
          to.result = to.function();
        },
        &both);
    return both.result;
  }
}

}  // namespace betterbox
