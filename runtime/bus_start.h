// Starting a scheduler in the background, once, however many processes want one at the same moment.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runtime/bus_file.h"
#include "runtime/limits.h"
#include "runtime/time.h"

namespace betterbox {

/// A bus as seen from this host.
struct FoundBus {
  BusInfo info;
  std::string endpoint;       ///< where its scheduler was found to listen
  std::string socket_folder;  ///< for sockets of peers on this host
};

/// The endpoint at which a scheduler of this bus accepts connections from here: on its host the socket, elsewhere the
/// network's. Nothing if it does at none, there within `patience`.
std::optional<std::string> reach_bus(const BusInfo& info, Duration patience = kReachTimeout);
inline bool bus_answers(const BusInfo& info) { return reach_bus(info).has_value(); }

/// CPUs that a daemon may use which this process starts: all that there are for it, in a batch job those of the job.
unsigned daemon_cpus();

/// Starts `argv` as a daemon: double fork, setsid, working folder /, umask 077, stdio to `log_file`; affinity (unless in
/// a batch job), priority and soft limits of the caller do not stay with it, where that needs no privilege. Every other
/// descriptor is closed except a pipe given as --ready-fd N appended to argv. Result: the line written to
/// that pipe; throws std::runtime_error with what it says behind "error: ", or with the end of the log if it
/// ends or says nothing until the deadline. `meanwhile` is run while it starts, and must not throw. Safe in a process with threads (the child only calls async-signal-safe functions).
std::string start_daemon(const std::vector<std::string>& argv, const std::string& log_file,
                         TimePoint deadline, const std::function<void()>& meanwhile = {});

/// The bus behind `bus_file`, which must be there. Throws std::runtime_error as below.
FoundBus find_bus(const std::string& bus_file);

/// The bus behind `bus_file`: read, and if nobody answers there, and `scheduler_argv` is not empty, started
/// under an exclusive lock (`bus_file` + ".lock"), checked again once held. Throws std::runtime_error with a text
/// for people: another host's bus that does not answer, no permission, no start.
FoundBus find_or_start_bus(const std::string& bus_file, const std::vector<std::string>& scheduler_argv,
                           const std::string& log_file, TimePoint deadline);

}  // namespace betterbox
