// Server: the driver of the scheduler core. One thread: it hands messages, ends of processes, signals and the
// time to the core, and carries out its effects.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "runtime/transport.h"
#include "scheduler/core.h"

namespace betterbox::scheduler {

class Server {
 public:
  struct Options {
    Config config;
    std::string bus_file;  ///< empty: a bus without one, which lasts until `die_with_fd` ends it
    std::string socket_folder;
    int signal_fd = -1;    ///< a signalfd: whatever it delivers ends the server
    int die_with_fd = -1;  ///< its end of file ends the server; -1: none
  };

  /// REQUIRES: `transport` listens and the bus file is written.
  Server(Options options, Transport& transport);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Serves until a signal, the end of the owner, the loss of its bus file or idleness.
  /// Result: why it ended. All peers were told and the bus file is removed.
  std::string run();

 private:
  bool drain_transport();
  void handle(Event&& event);
  void apply(Effects& effects);
  void on_transport_event(TransportEvent&& event);
  bool refuse_for_want_of_descriptors(ConnectionId connection, const Hello& hello);
  void correct_process(ConnectionId connection, Hello& hello) const;
  void deliver(const SendMessage& send);
  void end_unread();
  void mend_sockets();
  void give_value(const Broadcast& broadcast);
  void watch_process(const Hello& hello);
  void forget_gone_processes();
  void check_bus_file();
  void wait();
  void remove_socket(const std::string& path) const;

  Options options_;
  Transport& transport_;
  SchedulerCore core_;
  std::map<PeerId, int> processes_;  ///< pidfds of peers on this host
  TimePoint next_bus_check_{0};
  int unreadable_bus_files_ = 0;
  bool told_of_descriptors_ = false;  ///< since the last peer was let in
  ConnectionId cause_;                ///< whose message is handled
  std::vector<ConnectionId> unread_;
  bool stopped_ = false;
  std::string stop_reason_;
};

}  // namespace betterbox::scheduler
