// Agent: the driver of a worker core: its connection to the scheduler, the socket where clients reach
// its boxes, and its seats. One thread runs it (no GIL, so liveness never waits for user code).
//
// Two kinds of slots behind one interface: processes forked from a template (the worker program), and
// threads of this process (a script that serves boxes; AgentThread below).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "runtime/ids.h"
#include "runtime/shm.h"
#include "runtime/transport.h"

namespace betterbox {

/// The agent of a script that serves boxes. Thread-safe. The script provides the slot threads:
/// it runs run_slot(open_seat(...).arena, ...) on a thread of its own per box.
class AgentThread {
 public:
  struct Options {
    std::string scheduler_endpoint;
    std::string interface;        ///< as of AgentLoop::Options
    std::string listen_endpoint;  ///< the same
    /// 1: this process is a worker with one slot for plain functions, which runs on a thread of this process (next_seat).
    std::uint32_t function_slots = 0;
    std::string socket_folder;   ///< where the agent's own socket goes
    std::string name;            ///< for people
    std::string python_version;  ///< MAJOR.MINOR
    std::string bus_file;        ///< where to look for the successor of a lost scheduler; empty: nowhere
    bool background = false;
    std::function<void()> thread_begins;  ///< called first on the agent's thread; may be empty
  };
  struct Seat {
    SeatId seat;
    std::shared_ptr<SlotArena> arena;
    int bell_fd;
    bool for_functions = false;
  };

  /// Connects and greets the scheduler. Throws std::runtime_error (message for people) when refused
  /// or when nobody answers within the liveness bound.
  AgentThread(const Options& options, std::unique_ptr<Transport> transport);
  ~AgentThread();  ///< stop()

  /// Workers: the next seat that needs a thread (REQUIRES of it: run_slot on its arena), or nothing once the agent has
  /// ended. Waits for it.
  std::optional<Seat> next_seat();
  /// Makes a seat for a box at `port` with the given kInit payload. The box is offered to the bus when its slot says
  /// kReady.
  Seat open_seat(Port port, std::string init_payload);
  /// Waits until the box of this seat is offered and the scheduler was told (true), or the slot said kFailed
  /// (false), at most until `deadline` (false).
  bool wait_offered(SeatId seat, TimePoint deadline);
  /// Withdraws the box, tells its slot to stop, waits for kStopped at most until `deadline`.
  /// Result: the error item of kStopped (empty: fine).
  std::string close_seat(SeatId seat, TimePoint deadline);
  /// Says Bye, ends the thread, removes the socket. Idempotent.
  void stop();
  /// False once the bus was lost and could not be found again.
  bool connected() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace betterbox
