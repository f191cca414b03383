#include "runtime/bus_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

namespace betterbox {
namespace {

namespace fs = std::filesystem;

class BusFileTest : public testing::Test {
 protected:
  BusFileTest() {
    char path[] = "/tmp/bb-bus-XXXXXX";
    folder_ = ::mkdtemp(path);
    ::setenv("XDG_RUNTIME_DIR", folder_.c_str(), 1);
  }
  ~BusFileTest() override {
    ::unsetenv("XDG_RUNTIME_DIR");
    fs::remove_all(folder_);
  }

  std::string path(const std::string& name = "bus.json") const { return folder_ + "/" + name; }
  void write_text(const std::string& text) {
    std::ofstream(path()) << text;
    fs::permissions(path(), fs::perms::owner_read | fs::perms::owner_write);
  }
  std::string read_text() {
    std::ifstream file(path());
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  std::string refusal() {
    try {
      return read_bus_file(path()) ? "read" : "nothing";
    } catch (const std::exception& problem) {
      return problem.what();
    }
  }
  /// A socket file; with somebody who listens on it, or not.
  int make_socket(const std::string& at, bool listening) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, at.c_str());
    EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_TRUE(!listening || ::listen(fd, 5) == 0);
    return fd;
  }

  const BusInfo info_{"ipc:///tmp/x/s",
                      "tcp://10.0.0.1:4711",
                      {"public", "secret"},
                      "/tmp/x",
                      "node1",
                      "0b8e",
                      0xFEDCBA9876543210,
                      4242,
                      "3.11",
                      true};
  std::string folder_;
};

TEST_F(BusFileTest, IsReadAsItWasWritten) {
  write_bus_file(path(), info_);
  const auto read = read_bus_file(path());
  ASSERT_TRUE(read);
  EXPECT_EQ(read->endpoint, info_.endpoint);
  EXPECT_EQ(read->network_endpoint, info_.network_endpoint);
  EXPECT_EQ(read->keys, info_.keys);
  EXPECT_EQ(read->socket_folder, info_.socket_folder);
  EXPECT_EQ(read->host, info_.host);
  EXPECT_EQ(read->boot_id, info_.boot_id);
  EXPECT_EQ(read->incarnation, info_.incarnation);
  EXPECT_EQ(read->pid, info_.pid);
  EXPECT_EQ(read->python, info_.python);
  EXPECT_EQ(read->self_started, info_.self_started);
}

TEST_F(BusFileTest, IsForItsOwnerAloneAndLeavesNoTemporaryFile) {
  write_bus_file(path(), info_);
  write_bus_file(path(), info_);
  struct stat status {};
  ASSERT_EQ(::stat(path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(BusFileTest, IsReadableJson) {
  write_bus_file(path(), info_);
  EXPECT_THAT(read_text(), testing::HasSubstr("\"endpoint\": \"ipc:///tmp/x/s\""));
  EXPECT_THAT(read_text(), testing::HasSubstr("\"self_started\": true"));
  EXPECT_THAT(read_text(), testing::HasSubstr("\"incarnation\": 18364758544493064720"));
}

TEST_F(BusFileTest, UnknownFieldsAndAnotherOrderAreFine) {
  write_bus_file(path(), info_);
  std::string text = read_text();
  text.insert(text.find('{') + 1, "\"color\": {\"deep\": [1, 2]}, \"pid\": 7, ");
  text.erase(text.rfind("\"pid\": 4242,"), std::strlen("\"pid\": 4242,"));
  write_text(text);
  EXPECT_EQ(read_bus_file(path())->pid, 7U);
}

TEST_F(BusFileTest, NoFileIsNothing) {
  EXPECT_EQ(refusal(), "nothing");
  EXPECT_FALSE(read_bus_file(path("no/such/folder/bus.json")));
}

TEST_F(BusFileTest, WhatIsNoBusFileIsAnErrorThatNamesIt) {
  for (const std::string text :
       {"", "{", "[]", "{\"endpoint\": 5}", "{\"endpoint\": \"x\"}", "hello", "\x01\x02", "null",
        "{\"endpoint\": \"x\", \"socket_folder\": \"y\", \"host\": \"h\", \"boot_id\": \"b\", "
        "\"incarnation\": -1, \"pid\": \"p\", \"python\": 3, \"self_started\": 1}"}) {
    write_text(text);
    EXPECT_THAT(refusal(), testing::AllOf(testing::HasSubstr(path()), testing::HasSubstr("no bus file")))
        << text;
  }
  write_text(std::string(60'000, '['));
  EXPECT_THAT(refusal(), testing::HasSubstr("no bus file"));
  write_text("{\"endpoint\":" + std::string(60'000, '['));
  EXPECT_THAT(refusal(), testing::HasSubstr("no bus file"));
  write_text(std::string(100'000, ' '));
  EXPECT_THAT(refusal(), testing::HasSubstr("too large"));
  fs::remove(path());
  fs::create_directory(path());
  EXPECT_THAT(refusal(), testing::HasSubstr("not a regular file"));
}

TEST_F(BusFileTest, AFileThatOthersMayWriteIsRefused) {
  write_bus_file(path(), info_);
  ::chmod(path().c_str(), 0666);
  EXPECT_THAT(refusal(), testing::HasSubstr("chmod 600"));
}

TEST_F(BusFileTest, ALinkOfItsOwnerLeadsToIt) {
  write_bus_file(path("real.json"), info_);
  fs::create_symlink("real.json", path());
  ASSERT_TRUE(read_bus_file(path()));
  if (::geteuid() != 0) return;
  ASSERT_EQ(::lchown(path().c_str(), 12345, 12345), 0);
  EXPECT_THAT(refusal(), testing::HasSubstr("a link that belongs to user 12345"));
}

TEST_F(BusFileTest, FieldsOfAnotherKindOrSizeMakeItNoBusFile) {
  write_bus_file(path(), info_);
  const std::string good = read_text();
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return parse_bus_file(text).has_value();
  };
  EXPECT_TRUE(with("4242", "4294967295"));
  for (const std::string pid :
       {"4294967296", "-1", "1.5", "1e3", "null", "\"7\"", "[]", "{}", "true", "1e999"})
    EXPECT_FALSE(with("4242", pid)) << pid;
  EXPECT_FALSE(with("18364758544493064720", "18446744073709551616"));
  EXPECT_FALSE(with("true", "1"));
  EXPECT_FALSE(with("\"0b8e\"", "null"));
  EXPECT_FALSE(with("0b8e", "a\\u0000b")) << "no path or name has such a character";
  EXPECT_FALSE(with("0b8e", "\xff\xfe")) << "no text";
}

TEST_F(BusFileTest, AnotherUsersFileIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give a file away";
  write_bus_file(path(), info_);
  ASSERT_EQ(::chown(path().c_str(), 12345, 12345), 0);
  EXPECT_THAT(refusal(), testing::HasSubstr("belongs to user 12345"));
}

TEST_F(BusFileTest, ADiskThatIsFullIsAClearErrorAndTheOldFileStays) {
  write_bus_file(path(), info_);
  const std::string before = read_text();
  // A process that may write no bytes to files stands for a full disk.
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit none{0, 0};
    ::setrlimit(RLIMIT_FSIZE, &none);
    try {
      write_bus_file(path(), info_);
    } catch (const std::system_error& problem) {
      const bool clear = std::string(problem.what()).find(path()) != std::string::npos;
      ::_exit(clear && problem.code() == std::errc::file_too_large ? 0 : 2);
    }
    ::_exit(1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read_text(), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(BusFileTest, AFolderThatIsNotThereIsAnErrorThatNamesTheFile) {
  try {
    write_bus_file(path("none/bus.json"), info_);
    FAIL();
  } catch (const std::system_error& problem) {
    EXPECT_THAT(problem.what(), testing::HasSubstr(path("none/bus.json")));
  }
}

TEST_F(BusFileTest, OnlyItsOwnIncarnationRemovesIt) {
  write_bus_file(path(), info_);
  remove_bus_file(path(), info_.incarnation + 1);
  EXPECT_TRUE(fs::exists(path()));
  remove_bus_file(path(), info_.incarnation);
  EXPECT_FALSE(fs::exists(path()));
  remove_bus_file(path(), info_.incarnation);
  write_text("garbage");
  remove_bus_file(path(), info_.incarnation);
  EXPECT_TRUE(fs::exists(path()));
}

TEST_F(BusFileTest, TheSocketFolderIsPrivateStableAndOfItsOwnBus) {
  const std::string one = make_socket_folder(path("one.json"));
  EXPECT_EQ(one, make_socket_folder(path("one.json")));
  EXPECT_EQ(one, make_socket_folder(folder_ + "/./x/../one.json"));
  EXPECT_NE(one, make_socket_folder(path("two.json")));
  EXPECT_THAT(one, testing::StartsWith(folder_ + "/betterbox/"));
  struct stat status {};
  ASSERT_EQ(::stat(one.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700U);
}

TEST_F(BusFileTest, ALongRuntimeFolderGivesWayToTmp) {
  const std::string deep = folder_ + "/" + std::string(90, 'd');
  fs::create_directory(deep);
  ::setenv("XDG_RUNTIME_DIR", deep.c_str(), 1);
  const std::string folder = make_socket_folder(path());
  EXPECT_THAT(folder, testing::StartsWith("/tmp/betterbox-" + std::to_string(::geteuid()) + "/"));
  EXPECT_LE(folder.size() + 40, 107U);
  ::rmdir(folder.c_str());
}

TEST_F(BusFileTest, AMissingRuntimeFolderGivesWayToTmp) {
  ::setenv("XDG_RUNTIME_DIR", "/no/such/folder", 1);
  const std::string folder = make_socket_folder(path());
  EXPECT_THAT(folder, testing::StartsWith("/tmp/betterbox-"));
  ::rmdir(folder.c_str());
}

TEST_F(BusFileTest, ASocketFolderThatIsNotPrivateIsRefused) {
  const auto refused = [this] {
    try {
      make_socket_folder(path());
      return std::string("made");
    } catch (const std::runtime_error& problem) {
      return std::string(problem.what());
    }
  };
  const std::string folder = make_socket_folder(path());
  ::chmod(folder.c_str(), 0755);
  EXPECT_THAT(refused(), testing::HasSubstr("chmod 700"));
  ::rmdir(folder.c_str());
  if (::geteuid() != 0) return;
  fs::create_directory_symlink("/tmp", folder);
  ASSERT_EQ(::lchown(folder.c_str(), 12345, 12345), 0);
  EXPECT_THAT(refused(), testing::HasSubstr("a link that belongs to user 12345"));
  fs::remove(folder);
  fs::create_directory(folder);
  ::chmod(folder.c_str(), 0700);
  ASSERT_EQ(::chown(folder.c_str(), 12345, 12345), 0);
  EXPECT_THAT(refused(), testing::HasSubstr("belongs to user 12345"));
}

TEST_F(BusFileTest, SweepingTakesDeadSocketsAndNothingElse) {
  const std::string folder = make_socket_folder(path());
  ::close(make_socket(folder + "/dead", true));
  const int living = make_socket(folder + "/living", true);
  std::ofstream(folder + "/note") << "not a socket";
  sweep_socket_folder(folder);
  EXPECT_FALSE(fs::exists(folder + "/dead"));
  EXPECT_TRUE(fs::exists(folder + "/living"));
  EXPECT_TRUE(fs::exists(folder + "/note"));
  ::close(living);
  fs::remove(folder + "/note");
  sweep_socket_folder(folder);
  EXPECT_FALSE(fs::exists(folder));
  sweep_socket_folder(folder);  // nothing there: no error
}

TEST_F(BusFileTest, ThisMachineHasANameAndABootId) {
  EXPECT_FALSE(host_name().empty());
  EXPECT_EQ(boot_id().size(), 36U);
}

}  // namespace
}  // namespace betterbox
