#include "runtime/own_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <system_error>

namespace betterbox {
namespace {

namespace fs = std::filesystem;

constexpr int kMostLinks = 40;  ///< on the way to a file, as the kernel has it
constexpr mode_t kWriteOfOthers = 022;
constexpr std::size_t kHashBytes = 16;  ///< of the folder of one bus

[[noreturn]] void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

std::string mode_text(const struct stat& about) {
  char text[8];
  std::snprintf(text, sizeof text, "%04o", static_cast<unsigned>(about.st_mode & 07777));
  return text;
}

std::string foreign(const std::string& path, const struct stat& about) {
  return path + " belongs to user " + std::to_string(about.st_uid) + ", not to you";
}

void split_in_front(std::deque<std::string>& parts, const std::string& path) {
  std::deque<std::string> found;
  for (const fs::path& part : fs::path(path).relative_path())
    if (!part.empty() && part != ".") found.push_back(part.string());
  parts.insert(parts.begin(), found.begin(), found.end());
}

/// A way through the file system, one name at a time. It stands at a folder, or at last at another file.
class Walk {
 public:
  explicit Walk(bool make) : make_(make) { begin(); }

  /// Follows the path's links, the last one included. Throws NotOurs at a link of somebody else.
  void follow(const std::string& path) {
    whole_ = path;
    split_in_front(parts_, fs::absolute(path).string());
    while (!parts_.empty()) {
      const std::string name = parts_.front();
      parts_.pop_front();
      step(name);
    }
  }

  int at() const { return at_.get(); }
  int folder() const { return folder_.get(); }  ///< the last folder that was left, by its entry `name`
  const std::string& name() const { return name_; }
  const struct stat& about() const { return about_; }
  /// The first folder on the way in which everybody may put something else into the place of what is ours.
  const std::string& open_to_all() const { return open_to_all_; }

 private:
  void begin() {
    at_ = Descriptor(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!at_ || ::fstat(at_.get(), &about_) != 0) throw_errno("cannot open /");
    here_.clear();
    root_owner_ = about_.st_uid;
  }

  void step(const std::string& name) {
    const std::string next = here_ + "/" + name;
    if ((about_.st_mode & S_IWOTH) != 0 && (about_.st_mode & S_ISVTX) == 0 && open_to_all_.empty())
      open_to_all_ = here_.empty() ? "/" : here_;
    struct stat found {};
    int looked = ::fstatat(at_.get(), name.c_str(), &found, AT_SYMLINK_NOFOLLOW);
    if (looked != 0 && errno == ENOENT && make_) {
      if (::mkdirat(at_.get(), name.c_str(), 0700) != 0 && errno != EEXIST)
        throw_errno("cannot make the folder " + next);
      looked = ::fstatat(at_.get(), name.c_str(), &found, AT_SYMLINK_NOFOLLOW);
    }
    if (looked != 0) throw_errno("cannot open " + next);
    if (S_ISLNK(found.st_mode)) return turn_off(name, next, found);
    // As a folder: else what is mounted when it is entered would not be.
    const int kind = S_ISDIR(found.st_mode) ? O_DIRECTORY : 0;
    Descriptor entered(::openat(at_.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC | kind));
    if (!entered || ::fstat(entered.get(), &about_) != 0) throw_errno("cannot open " + next);
    if (S_ISLNK(about_.st_mode)) throw NotOurs(next + " has just become a link; look who changes it");
    folder_ = std::move(at_);
    name_ = name;
    at_ = std::move(entered);
    here_ = next;
  }

  /// Whoever owns the root folder is root, also where a namespace of users shows it under another number.
  void turn_off(const std::string& name, const std::string& next, const struct stat& link) {
    if (link.st_uid != ::geteuid() && link.st_uid != 0 && link.st_uid != root_owner_)
      throw NotOurs(next + " is a link that belongs to user " + std::to_string(link.st_uid) +
                    ": it may lead anywhere; remove it, or use a path without it");
    if (++links_ > kMostLinks) {
      errno = ELOOP;
      throw_errno("cannot open " + whole_);
    }
    char target[4097];
    const ssize_t size = ::readlinkat(at_.get(), name.c_str(), target, sizeof target - 1);
    if (size < 0) throw_errno("cannot read the link " + next);
    const std::string path(target, static_cast<std::size_t>(size));
    if (path.starts_with('/')) begin();
    split_in_front(parts_, path);
  }

  bool make_;
  std::string whole_;
  std::string here_;  ///< where the walk stands, without a slash at its end
  std::deque<std::string> parts_;
  Descriptor at_;
  Descriptor folder_;
  std::string name_;
  struct stat about_ {};
  uid_t root_owner_ = 0;
  int links_ = 0;
  std::string open_to_all_;
};

void check_folder(const Walk& walk, const std::string& path, Others others) {
  const struct stat& about = walk.about();
  if (!S_ISDIR(about.st_mode)) throw NotOurs(path + " is not a folder; remove it or name another");
  if (about.st_uid != ::geteuid())
    throw NotOurs(foreign(path, about) + "; use a folder of yours, or make it yours (chown)");
  if ((about.st_mode & kWriteOfOthers) != 0)
    throw NotOurs(path + " (" + mode_text(about) +
                  ") can be changed by others; look through it, then: chmod 700 " + path);
  if (others == Others::kMayNothing && (about.st_mode & 077) != 0)
    throw NotOurs(path + " (" + mode_text(about) + ") is open to other users; chmod 700 " + path);
  if (!walk.open_to_all().empty())
    throw NotOurs(
        path + " lies in " + walk.open_to_all() +
        ", where everybody may put another one in its place; use a folder elsewhere, or: chmod +t " +
        walk.open_to_all());
}

void check_file(int fd, const std::string& path) {
  struct stat about {};
  if (::fstat(fd, &about) != 0) throw_errno("cannot look at " + path);
  if (!S_ISREG(about.st_mode)) throw NotOurs(path + " is not a regular file; remove it or name another");
  if (about.st_uid != ::geteuid()) throw NotOurs(foreign(path, about) + "; remove it or name another");
  if ((about.st_mode & kWriteOfOthers) != 0)
    throw NotOurs(path + " (" + mode_text(about) +
                  ") can be changed by others; if it is still good: chmod 600 " + path);
  if (about.st_nlink > 1)
    throw NotOurs(
        path + " has " + std::to_string(about.st_nlink) +
        " names (hard links), and what is written to it would change the others, too; if it is still good, "
        "make a copy of it in its place: cp -p " +
        path + " " + path + ".new && mv " + path + ".new " + path);
}

Descriptor open_checked(int folder, const std::string& name, const std::string& path, int flags) {
  const int safe = (flags & ~O_TRUNC) | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
  Descriptor file(::openat(folder, name.c_str(), safe, 0600));
  if (!file && errno == ELOOP) throw NotOurs(path + " is a link, which may lead anywhere; remove it");
  if (!file) throw_errno("cannot open " + path);
  check_file(file.get(), path);
  if ((flags & O_TRUNC) != 0 && ::ftruncate(file.get(), 0) != 0) throw_errno("cannot empty " + path);
  return file;
}

bool is_private_folder(const std::string& path, struct stat& about) {
  return ::lstat(path.c_str(), &about) == 0 && S_ISDIR(about.st_mode) && about.st_uid == ::geteuid() &&
         (about.st_mode & 077) == 0;
}

/// As the specification of XDG_RUNTIME_DIR wants it: a folder of this user's. Its name must be plain ASCII, for it goes into
/// the bus file, which is JSON, and through the locales of many processes.
bool can_be_used(const std::string& runtime) {
  struct stat about {};
  const bool plain =
      std::all_of(runtime.begin(), runtime.end(), [](char each) { return each >= ' ' && each <= '~'; });
  return plain && runtime.starts_with('/') && ::stat(runtime.c_str(), &about) == 0 &&
         S_ISDIR(about.st_mode) && about.st_uid == ::geteuid() && (about.st_mode & kWriteOfOthers) == 0 &&
         ::access(runtime.c_str(), W_OK | X_OK) == 0;
}

/// The name is taken: the first that is ours of those beside it, else a new one. Nobody else can make one that is ours.
std::string folder_beside(const std::string& base, bool make) {
  const std::string prefix = base + "-";
  std::string first;
  struct stat about {};
  std::error_code ignored;
  for (fs::directory_iterator it(fs::path(base).parent_path(), ignored), end; it != end;
       it.increment(ignored)) {
    const std::string path = it->path().string();
    if (path.size() == prefix.size() + 6 && path.starts_with(prefix) && (first.empty() || path < first) &&
        is_private_folder(path, about))
      first = path;
  }
  if (!first.empty() || !make) return first.empty() ? base : first;
  std::string made = prefix + "XXXXXX";
  if (::mkdtemp(made.data()) == nullptr) throw_errno("cannot make a folder like " + made);
  return made;
}

}  // namespace

void check_own_folder(const std::string& path, Others others) {
  Walk walk(false);
  walk.follow(path);
  check_folder(walk, path, others);
}

void make_own_folder(const std::string& path, Others others) {
  Walk walk(true);
  walk.follow(path);
  check_folder(walk, path, others);
}

Descriptor open_own_file(const std::string& path, int flags) {
  const fs::path whole = fs::absolute(path);
  Walk walk(false);
  walk.follow(whole.parent_path().string());
  return open_checked(walk.at(), whole.filename().string(), path, flags);
}

Descriptor open_own_linked_file(const std::string& path) {
  Walk walk(false);
  walk.follow(path);
  if (!S_ISREG(walk.about().st_mode))
    throw NotOurs(path + " is not a regular file; remove it or name another");
  return open_checked(walk.folder(), walk.name(), path, O_RDONLY);
}

std::string runtime_folder(bool make) {
  const char* given = std::getenv("XDG_RUNTIME_DIR");
  const std::string runtime = given == nullptr ? "" : given;
  std::string base = runtime + "/betterbox";
  const std::size_t longest = base.size() + 7 + 1 + kHashBytes + 1 + kSocketNameBytes;
  if (!can_be_used(runtime) || longest > kMaxSocketPath)
    base = "/tmp/betterbox-" + std::to_string(::geteuid());
  struct stat about {};
  if (make && ::mkdir(base.c_str(), 0700) != 0 && errno != EEXIST)
    throw_errno("cannot make the folder " + base);
  if (is_private_folder(base, about) || (!make && ::lstat(base.c_str(), &about) != 0)) return base;
  return folder_beside(base, make);
}

}  // namespace betterbox
