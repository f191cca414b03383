#include "runtime/own_files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <system_error>

namespace betterbox {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

class OwnFilesTest : public testing::Test {
 protected:
  OwnFilesTest() {
    char path[] = "/tmp/bb-own-XXXXXX";
    root_ = ::mkdtemp(path);
    ::setenv("XDG_RUNTIME_DIR", root_.c_str(), 1);
  }
  ~OwnFilesTest() override {
    ::unsetenv("XDG_RUNTIME_DIR");
    fs::remove_all(root_);
  }

  std::string path(const std::string& name) const { return root_ + "/" + name; }
  void write(const std::string& name, const std::string& text = "text") { std::ofstream(path(name)) << text; }
  std::string text(const std::string& name) {
    std::ifstream file(path(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  unsigned mode(const std::string& name) {
    struct stat about {};
    EXPECT_EQ(::lstat(path(name).c_str(), &about), 0) << name;
    return about.st_mode & 07777;
  }
  static std::string refusal(const std::function<void()>& act) {
    try {
      act();
      return "fine";
    } catch (const NotOurs& problem) {
      return problem.what();
    } catch (const std::system_error& problem) {
      return "the system: " + std::string(problem.what());
    }
  }
  std::string folder_refusal(const std::string& name, Others others = Others::kMayRead) {
    return refusal([&] { make_own_folder(path(name), others); });
  }
  std::string file_refusal(const std::string& name, int flags = O_RDWR | O_CREAT | O_TRUNC) {
    return refusal([&] { open_own_file(path(name), flags); });
  }
  /// Gives something away; only root can. Result: false if this is not root.
  bool give_away(const std::string& name) {
    return ::geteuid() == 0 && ::lchown(path(name).c_str(), 12345, 12345) == 0;
  }

  std::string root_;
};

TEST_F(OwnFilesTest, FoldersAreMadeForTheirOwnerAloneAtEachLevel) {
  const mode_t before = ::umask(0);
  make_own_folder(path("a/b/c"));
  ::umask(before);
  for (const char* made : {"a", "a/b", "a/b/c"}) EXPECT_EQ(mode(made), 0700U) << made;
  make_own_folder(path("a/./b/../b//c/"));
}

TEST_F(OwnFilesTest, AFolderThatOthersMayWriteIsRefusedAndOneThatTheyMayReadWhereItMatters) {
  make_own_folder(path("a"));
  for (const unsigned open : {0720U, 0702U, 0777U, 01777U}) {
    ::chmod(path("a").c_str(), open);
    EXPECT_THAT(folder_refusal("a"), HasSubstr("chmod 700 " + path("a")));
  }
  ::chmod(path("a").c_str(), 0755);
  EXPECT_EQ(folder_refusal("a"), "fine");
  EXPECT_THAT(folder_refusal("a", Others::kMayNothing), HasSubstr("chmod 700 " + path("a")));
}

TEST_F(OwnFilesTest, AFolderThatOthersCouldReplaceIsRefused) {
  make_own_folder(path("a/b"));
  ::chmod(path("a").c_str(), 0777);
  EXPECT_THAT(folder_refusal("a/b"), AllOf(HasSubstr("in its place"), HasSubstr("chmod +t " + path("a"))));
  ::chmod(path("a").c_str(), 01777);
  EXPECT_EQ(folder_refusal("a/b"), "fine") << "like /tmp: nobody else can move what is ours";
}

TEST_F(OwnFilesTest, WhatIsNoFolderIsRefused) {
  write("file");
  EXPECT_THAT(folder_refusal("file"), HasSubstr("not a folder"));
  EXPECT_THAT(folder_refusal("file/a"), HasSubstr("the system"));
  EXPECT_THAT(refusal([&] { check_own_folder(path("none")); }), HasSubstr("the system"));
}

TEST_F(OwnFilesTest, LinksOfOnesOwnLeadOnAndThoseOfOthersDoNot) {
  make_own_folder(path("real"));
  fs::create_symlink(path("real"), path("link"));
  fs::create_symlink("link", path("links"));
  make_own_folder(path("links/a"));
  EXPECT_EQ(mode("real/a"), 0700U);
  fs::create_symlink("loop", path("loop"));
  EXPECT_THAT(folder_refusal("loop/a"), HasSubstr("the system"));
  if (!give_away("link")) GTEST_SKIP() << "needs root to give a link away";
  for (const char* through : {"link", "link/a", "links/a", "link/b"})
    EXPECT_THAT(folder_refusal(through), HasSubstr(path("link") + " is a link that belongs to user 12345"));
  EXPECT_THAT(file_refusal("link/file"), HasSubstr("belongs to user 12345"));
  EXPECT_FALSE(fs::exists(path("real/file")));
}

TEST_F(OwnFilesTest, WhatBelongsToSomebodyElseIsRefused) {
  make_own_folder(path("a"));
  write("file");
  if (!give_away("a") || !give_away("file")) GTEST_SKIP() << "needs root to give files away";
  EXPECT_THAT(folder_refusal("a"), HasSubstr("belongs to user 12345"));
  EXPECT_THAT(file_refusal("file"), HasSubstr("belongs to user 12345"));
  EXPECT_EQ(text("file"), "text") << "nothing was cut before the check";
}

TEST_F(OwnFilesTest, AFileIsMadeForItsOwnerAlone) {
  const mode_t before = ::umask(0);
  EXPECT_TRUE(open_own_file(path("new"), O_WRONLY | O_CREAT));
  ::umask(before);
  EXPECT_EQ(mode("new"), 0600U);
}

TEST_F(OwnFilesTest, AFileThatIsALinkOrHasAnotherNameOrOpensToOthersIsNotTouched) {
  write("precious");
  fs::create_symlink("precious", path("soft"));
  EXPECT_THAT(file_refusal("soft"), HasSubstr("is a link"));
  fs::create_hard_link(path("precious"), path("hard"));
  EXPECT_THAT(file_refusal("hard"), HasSubstr("2 names"));
  fs::remove(path("hard"));
  ::chmod(path("precious").c_str(), 0620);
  EXPECT_THAT(file_refusal("precious"), HasSubstr("chmod 600 " + path("precious")));
  EXPECT_EQ(text("precious"), "text");
  ::chmod(path("precious").c_str(), 0600);
  EXPECT_EQ(file_refusal("precious"), "fine");
  EXPECT_EQ(text("precious"), "") << "O_TRUNC, after the check";
  fs::create_symlink("nowhere", path("dangling"));
  EXPECT_THAT(file_refusal("dangling"), HasSubstr("is a link"));
  EXPECT_FALSE(fs::exists(path("nowhere")));
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(file_refusal("pipe"), HasSubstr("not a regular file"));
  EXPECT_THAT(file_refusal("pipe", O_RDONLY), HasSubstr("not a regular file"))
      << "and nobody waits for a writer";
}

TEST_F(OwnFilesTest, WhereTheRuntimeFoldersNameIsTakenAnotherIsUsedAndFoundAgain) {
  const std::string usual = path("betterbox");
  EXPECT_EQ(runtime_folder(false), usual);
  const std::function<void()> ways[] = {[&] { write("betterbox"); },
                                        [&] { fs::create_symlink("/tmp", usual); },
                                        [&] { fs::create_directory(usual), ::chmod(usual.c_str(), 0755); },
                                        [&] { fs::create_directory(usual), give_away("betterbox"); }};
  std::string beside;
  for (const auto& take : ways) {
    take();
    if (beside.empty()) {
      EXPECT_EQ(runtime_folder(false), usual) << "a look makes nothing";
    }
    const std::string found = runtime_folder(true);
    EXPECT_THAT(found, testing::StartsWith(usual + "-"));
    EXPECT_EQ(mode(fs::path(found).filename()), 0700U);
    EXPECT_TRUE(beside.empty() || beside == found) << "one for all processes";
    EXPECT_EQ(runtime_folder(false), found);
    beside = found;
    fs::remove(usual);
  }
  EXPECT_EQ(runtime_folder(true), usual);
  EXPECT_EQ(mode("betterbox"), 0700U);
}

TEST_F(OwnFilesTest, AFolderBesideThatIsNotOursAloneIsPassedOver) {
  write("betterbox");
  fs::create_directory(path("betterbox-aaaaaa"));
  ::chmod(path("betterbox-aaaaaa").c_str(), 0777);
  fs::create_symlink("/tmp", path("betterbox-bbbbbb"));
  const std::string found = runtime_folder(true);
  EXPECT_NE(found, path("betterbox-aaaaaa"));
  EXPECT_NE(found, path("betterbox-bbbbbb"));
}

TEST_F(OwnFilesTest, ARuntimeFolderOfEverybodyIsNotUsed) {
  ::chmod(root_.c_str(), 01777);
  EXPECT_THAT(runtime_folder(false), testing::StartsWith("/tmp/betterbox-" + std::to_string(::geteuid())));
}

}  // namespace
}  // namespace betterbox
