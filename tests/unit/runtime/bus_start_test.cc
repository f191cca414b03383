// Starting daemons for real: what they inherit, how they fail, and that many starters start one.
#include "runtime/bus_start.h"
#include "runtime/zmq_keys.h"
#include "runtime/zmq_transport.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

namespace betterbox {
namespace {

namespace fs = std::filesystem;

TimePoint soon() { return monotonic_now() + seconds(30); }

/// A scheduler as far as starting goes: listens, writes the bus file, says so, lives until it is killed.
/// Its arguments: bus file, socket, log of starts, public key, secret key, incarnation, --ready-fd, N.
constexpr char kFakeScheduler[] = R"(
import json, os, platform, signal, socket, sys
bus, path, starts, public, secret, incarnation = sys.argv[1:7]
with open(starts, 'a') as log: log.write('%d\n' % os.getpid())
listener = socket.socket(socket.AF_UNIX)
if os.path.exists(path): os.unlink(path)
listener.bind(path)
listener.listen(100)
boot = open('/proc/sys/kernel/random/boot_id').read().strip()
with open(bus + '.new', 'w') as f:
    json.dump(dict(endpoint='ipc://' + path, socket_folder=os.path.dirname(path),
                   network_endpoint='', public_key=public, secret_key=secret,
                   host=platform.node(), boot_id=boot,
                   incarnation=int(incarnation), pid=os.getpid(), python='3.11', self_started=True), f)
os.chmod(bus + '.new', 0o600)
os.rename(bus + '.new', bus)
os.write(int(sys.argv[8]), b'ready %d\n' % os.getpid())
os.close(int(sys.argv[8]))
signal.pause()
)";

class BusStartTest : public testing::Test {
 protected:
  BusStartTest() {
    char path[] = "/tmp/bb-start-XXXXXX";
    folder_ = ::mkdtemp(path);
  }
  ~BusStartTest() override {
    for (const pid_t pid : started()) end_daemon(pid);
    fs::remove_all(folder_);
  }

  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  std::string log() const { return path("daemon.log"); }
  std::string bus() const { return path("bus.json"); }
  std::string read_text(const std::string& at) const {
    std::ifstream file(at);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  static std::vector<std::string> shell(const std::string& script) {
    return {"/bin/sh", "-c", script, "daemon"};
  }
  std::vector<std::string> scheduler() const {
    const BusKeys keys = make_bus_keys();
    return {"/usr/bin/python3",
            "-c",
            kFakeScheduler,
            bus(),
            path("s"),
            path("starts"),
            keys.public_key,
            keys.secret_key,
            std::to_string(incarnation_of(keys))};
  }
  std::vector<pid_t> started() const {
    std::istringstream lines(read_text(path("starts")));
    std::vector<pid_t> pids;
    for (pid_t pid = 0; lines >> pid;) pids.push_back(pid);
    return pids;
  }
  static void end_daemon(pid_t pid) {
    ::kill(pid, SIGKILL);
    while (fs::exists("/proc/" + std::to_string(pid)) && !is_zombie(pid)) std::this_thread::yield();
  }
  static bool is_zombie(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string text;
    std::getline(file, text);
    return text.find(") Z ") != std::string::npos;
  }
  std::string failure(const std::vector<std::string>& argv, TimePoint deadline = soon()) {
    try {
      return "said " + start_daemon(argv, log(), deadline);
    } catch (const std::runtime_error& problem) {
      return problem.what();
    }
  }
  std::string bus_failure(const std::vector<std::string>& argv, TimePoint deadline = soon()) {
    try {
      find_or_start_bus(bus(), argv, log(), deadline);
      return "found";
    } catch (const std::runtime_error& problem) {
      return problem.what();
    }
  }
  BusInfo dead_bus(const std::string& host, const std::string& boot) const {
    const BusKeys keys = make_bus_keys();
    return {"ipc://" + path("dead"), "", keys, folder_, host, boot, incarnation_of(keys), 4242, "3.11", true};
  }

  std::string folder_;
};

TEST_F(BusStartTest, ADaemonSaysThatItIsReady) {
  EXPECT_EQ(start_daemon(shell("echo \"ready $1 $2\" >&3"), log(), soon()), "ready --ready-fd 3");
}

TEST_F(BusStartTest, RunsWhatIsToBeDoneWhileItStarts) {
  // The daemon is ready only once this process has written the file.
  const std::string file = path("done");
  const std::string said =
      start_daemon(shell("while [ ! -e '" + file + "' ]; do sleep 0.01; done; echo ready >&3"), log(), soon(),
                   [&] { std::ofstream(file) << "yes"; });
  EXPECT_EQ(said, "ready");
}

TEST_F(BusStartTest, ADaemonInheritsNothingButItsThree) {
  const int leaked = ::open("/dev/null", O_RDONLY);  // deliberately without close-on-exec
  const int far = ::fcntl(leaked, F_DUPFD, 700);
  // The shell itself opens the folder while it lists: one more than 0 to 3.
  const std::string said =
      start_daemon(shell("fds=$(ls /proc/$$/fd | tr '\\n' ' '); echo \"$fds\" >&3"), log(), soon());
  ::close(leaked);
  ::close(far);
  EXPECT_THAT(said, testing::StartsWith("0 1 2 3 "));
  EXPECT_THAT(said, testing::Not(testing::HasSubstr("700")));
  EXPECT_LE(said.size(), std::string("0 1 2 3 10 255 ").size());
}

TEST_F(BusStartTest, ADaemonHasASessionOfItsOwnAndNoParentHere) {
  const std::string said = start_daemon(
      shell("echo \"$(cut -d' ' -f4,6 /proc/$$/stat) $(readlink /proc/$$/cwd)\" >&3"), log(), soon());
  std::istringstream words(said);
  pid_t parent = 0, session = 0;
  std::string folder;
  words >> parent >> session >> folder;
  EXPECT_NE(parent, ::getpid());
  EXPECT_NE(session, ::getsid(0));
  EXPECT_EQ(folder, "/");
}

TEST_F(BusStartTest, ADaemonStartsWithStandardSignals) {
  struct sigaction ignore {
  }, before{};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGUSR1, &ignore, &before);
  sigset_t blocked, mask_before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &blocked, &mask_before);
  const std::string said =
      start_daemon({"/usr/bin/python3", "-S", "-c",
                    "import os;t=open('/proc/self/status').read().split();f=lambda n:t[t.index(n)+1];"
                    "os.write(3,(f('SigBlk:')+' '+str(int(f('SigIgn:'),16)>>9&1)+'\\n').encode())"},
                   log(), soon());
  ::pthread_sigmask(SIG_SETMASK, &mask_before, nullptr);
  ::sigaction(SIGUSR1, &before, nullptr);
  EXPECT_EQ(said, "0000000000000000 0");
}

TEST_F(BusStartTest, WhatADaemonPrintsIsInItsLog) {
  start_daemon(shell("echo one; echo two >&2; echo ready >&3"), log(), soon());
  EXPECT_EQ(read_text(log()), "one\ntwo\n");
}

TEST_F(BusStartTest, ADaemonThatEndsShowsTheEndOfItsOwnLog) {
  std::ofstream(log()) << "an old line\n";
  EXPECT_THAT(failure(shell("echo no license >&2; exit 3")),
              testing::AllOf(testing::HasSubstr("ended while it started"), testing::HasSubstr("no license"),
                             testing::HasSubstr(log()), testing::Not(testing::HasSubstr("an old line"))));
}

TEST_F(BusStartTest, AProgramThatIsNotThereIsNamed) {
  EXPECT_THAT(failure({"/no/such/program"}),
              testing::AllOf(testing::HasSubstr("/no/such/program"), testing::HasSubstr("No such file")));
}

TEST_F(BusStartTest, ADaemonThatSaysNothingIsKilledAtTheDeadline) {
  const std::string text = failure(shell("echo $$ > " + path("starts") + "; exec sleep 1000"),
                                   monotonic_now() + milliseconds(500));
  EXPECT_THAT(text, testing::HasSubstr("not become ready in time"));
  for (const pid_t pid : started())
    while (fs::exists("/proc/" + std::to_string(pid)) && !is_zombie(pid)) std::this_thread::yield();
}

TEST_F(BusStartTest, ALogThatCannotBeWrittenIsAClearError) {
  std::ofstream(path("file")) << "x";
  try {
    start_daemon(shell("true"), path("file/under/daemon.log"), soon());
    FAIL();
  } catch (const std::exception& problem) {
    EXPECT_THAT(problem.what(), testing::HasSubstr(path("file")));
  }
}

TEST_F(BusStartTest, TheLogsFolderIsMadePrivate) {
  start_daemon(shell("echo ready >&3"), path("a/b/daemon.log"), soon());
  EXPECT_EQ(fs::status(path("a")).permissions(), fs::perms::owner_all);
}

TEST_F(BusStartTest, ABusIsStartedOnceAndThenFound) {
  const FoundBus first = find_or_start_bus(bus(), scheduler(), log(), soon());
  const FoundBus second = find_or_start_bus(bus(), scheduler(), log(), soon());
  EXPECT_EQ(first.info.incarnation, second.info.incarnation);
  EXPECT_EQ(started().size(), 1U);
  EXPECT_TRUE(bus_answers(first.info));
}

TEST_F(BusStartTest, ManyFirstUsersStartOneBus) {
  std::vector<pid_t> users;
  for (int i = 0; i < 12; ++i) {
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        find_or_start_bus(bus(), scheduler(), log(), soon());
      } catch (const std::exception&) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    users.push_back(child);
  }
  for (const pid_t user : users) {
    int status = -1;
    ::waitpid(user, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(started().size(), 1U);
}

TEST_F(BusStartTest, ABusWhoseSchedulerWasKilledIsStartedAgain) {
  const FoundBus first = find_or_start_bus(bus(), scheduler(), log(), soon());
  end_daemon(static_cast<pid_t>(first.info.pid));
  EXPECT_FALSE(bus_answers(first.info));
  const FoundBus second = find_or_start_bus(bus(), scheduler(), log(), soon());
  EXPECT_NE(first.info.incarnation, second.info.incarnation);
}

TEST_F(BusStartTest, ABusOfBeforeARebootIsStartedAgain) {
  write_bus_file(bus(), dead_bus(host_name(), "another-boot"));
  EXPECT_TRUE(bus_answers(find_or_start_bus(bus(), scheduler(), log(), soon()).info));
}

TEST_F(BusStartTest, AnotherHostsBusIsAnErrorAndNeverASecondBus) {
  write_bus_file(bus(), dead_bus("elsewhere", "another-boot"));
  EXPECT_THAT(bus_failure(scheduler()), testing::HasSubstr("on host elsewhere"));
  EXPECT_TRUE(started().empty());
  EXPECT_EQ(read_bus_file(bus())->host, "elsewhere");
}

TEST_F(BusStartTest, AContainerWithANewNameStartsItsBusAgainButNeverOneOfManyHosts) {
  write_bus_file(bus(), dead_bus("elsewhere", boot_id()));
  EXPECT_TRUE(bus_answers(find_or_start_bus(bus(), scheduler(), log(), soon()).info));
  BusInfo wide = dead_bus("elsewhere", boot_id());
  wide.network_endpoint = "tcp://127.0.0.1:1";
  write_bus_file(path("wide.json"), wide);
  try {
    find_or_start_bus(path("wide.json"), scheduler(), log(), soon());
    FAIL();
  } catch (const std::exception& problem) {
    EXPECT_THAT(problem.what(),
                testing::AllOf(testing::HasSubstr("on host elsewhere"), testing::HasSubstr("--interface")));
  }
}

TEST_F(BusStartTest, AnotherHostsBusIsReachedOverTheNetwork) {
  ZmqTransport listener([] { return make_bus_keys(); });
  BusInfo wide = dead_bus("elsewhere", "another-boot");
  wide.network_endpoint = listener.listen("tcp://127.0.0.1:0");
  write_bus_file(bus(), wide);
  const FoundBus found = find_or_start_bus(bus(), scheduler(), log(), soon());
  EXPECT_EQ(found.endpoint, wide.network_endpoint);
  EXPECT_NE(found.socket_folder, wide.socket_folder) << "sockets of that host";
  EXPECT_TRUE(fs::is_directory(found.socket_folder));
  fs::remove(found.socket_folder);
}

TEST_F(BusStartTest, WithoutAProgramToStartTheErrorSaysWhatToDo) {
  EXPECT_THAT(bus_failure({}),
              testing::AllOf(testing::HasSubstr(bus()), testing::HasSubstr("betterbox scheduler")));
  write_bus_file(bus(), dead_bus(host_name(), boot_id()));
  EXPECT_THAT(bus_failure({}), testing::HasSubstr("pid 4242"));
}

TEST_F(BusStartTest, AStarterThatHoldsTheLockForTooLongIsReported) {
  const int lock = ::open((bus() + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  EXPECT_THAT(bus_failure(scheduler(), monotonic_now() + milliseconds(50)),
              testing::HasSubstr("another process holds"));
  ::close(lock);
}

TEST_F(BusStartTest, TheFolderOfTheBusIsMadePrivate) {
  const std::string deep = path("home/.betterbox/bus.json");
  auto argv = scheduler();
  argv[3] = deep;
  find_or_start_bus(deep, argv, path("home/.betterbox/log"), soon());
  EXPECT_EQ(fs::status(path("home/.betterbox")).permissions(), fs::perms::owner_all);
}

TEST_F(BusStartTest, OnlyAListenerAnswers) {
  EXPECT_FALSE(bus_answers(dead_bus("h", "b")));
  EXPECT_FALSE(bus_answers({"", "tcp://127.0.0.1:1", {}, "", "", "", 0, 0, "", false}));
  EXPECT_FALSE(
      bus_answers({"ipc://" + std::string(200, 'x'), "", {}, "", host_name(), boot_id(), 0, 0, "", false}));
}

}  // namespace
}  // namespace betterbox
