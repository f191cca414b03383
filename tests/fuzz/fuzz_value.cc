// libFuzzer target: values in shared memory, and what peers and files say of them: Fetches and Chunks with any numbers, headers
// of files that were written over, items that refer to any of it. A copy that is whole has the bytes of its value.
// Input: operations of a few bytes each.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/check.h"
#include "runtime/shared_items.h"
#include "runtime/value_copy.h"
#include "tests/fuzz/input.h"

namespace betterbox {
namespace {

constexpr std::uint64_t kHeaderBytes = 4096, kBytes = kHeaderBytes + 3000, kFileBytes = 2 * kHeaderBytes;

/// Folders of this process's values and of their copies.
class Folders {
 public:
  Folders() {
    char made[] = "/tmp/betterbox-fuzz-XXXXXX";
    BB_CHECK(::mkdtemp(made) != nullptr);
    root_ = made;
    std::filesystem::create_directory(from());
    std::filesystem::create_directory(to());
  }
  ~Folders() {
    std::error_code error;
    std::filesystem::remove_all(root_, error);
  }
  Folders(const Folders&) = delete;
  Folders& operator=(const Folders&) = delete;
  std::string from() const { return root_ + "/from"; }
  std::string to() const { return root_ + "/to"; }

 private:
  std::string root_;
};

const Folders& folders() {
  static const Folders folders;
  return folders;
}

std::shared_ptr<SegmentPool> pool() {
  static const auto pool = SegmentPool::make(folders().from(), {1U << 20, 1U << 20});
  return pool;
}

/// A page with an item whose buffer lies in the host's shared memory, and which stays while the process lives.
const std::string& shared_page() {
  static KeptBuffers kept;
  static const std::string page = [] {
    const std::string buffer(3000, 'v');
    const std::span<const std::byte> parts[] = {std::as_bytes(std::span(buffer))};
    std::string item;
    if (const auto put = kept.put(parts)) append_shared_item(item, ItemTag::kBytes, *put);
    if (item.empty()) item = "\x01";  // no shared memory here
    PageBuilder builder;
    builder.add(std::as_bytes(std::span(item)));
    builder.add(std::as_bytes(std::span("\x01", 1)));
    return std::string(builder.finish().view());
  }();
  return page;
}

class Bench {
 public:
  explicit Bench(fuzz::Input& input) : input_(input) {
    const std::string bytes(kBytes - kHeaderBytes, 'v');
    const std::span<const std::byte> parts[] = {std::as_bytes(std::span(bytes))};
    lease_ = pool()->write(parts);
    BB_CHECK(lease_);
    const SegmentRef& ref = lease_->parts.front();
    value_ = {ref.name, ref.serial, ref.offset + ref.size};
    start_copy(value_);
  }

  void run() {
    while (!input_.empty()) {
      switch (input_.below(8)) {
        case 0: fetch(); break;
        case 1: map(); break;
        case 2: take_page(); break;
        case 3: write_over(); break;
        case 4: copy_next(); break;
        case 5: chunk(); break;
        case 6: copy_over(); break;
        default: finish();
      }
    }
  }

 private:
  std::uint64_t near(std::uint64_t right) { return input_.below(3) == 0 ? input_.number() : right; }
  ValueId any_value() {
    return {input_.below(8) == 0 ? input_.text() : value_.name, near(value_.serial), near(value_.bytes)};
  }

  void fetch() {
    Fetch fetch;
    fetch.value = any_value();
    fetch.offset = near(0);
    fetch.count = near(fetch.value.bytes - fetch.offset);
    const Message answer = read_chunk(fetch, folders().from());
    BB_CHECK(answer.frames.size() <= 1);
    if (!answer.frames.empty())
      BB_CHECK(answer.frames.front().size() == fetch.count && fetch.offset + fetch.count <= kFileBytes);
  }

  void map() {
    const SegmentRef ref{value_.name, near(value_.serial), near(kHeaderBytes), near(100)};
    const auto mapped = MappedSegment::open(folders().from(), ref);
    if (!mapped) return;
    BB_CHECK(mapped->bytes().size() == ref.size && ref.offset + ref.size <= kFileBytes);
    touch(mapped->bytes());
  }

  void take_page() {
    std::string page = shared_page();
    for (unsigned changes = input_.below(3); changes > 0; --changes)
      page[input_.word(2) % page.size()] = static_cast<char>(input_.byte());
    const Frame taken = take_shared(Frame(std::move(page)), 0);
    const auto view = PageView::parse(taken.bytes());
    if (!view || !view->has_items()) return;
    for (std::uint64_t i = 0; i < view->count(); ++i) {
      const auto item = parse_shared_item(view->item(i));
      const auto held = item ? held_for(*item) : nullptr;
      for (std::size_t part = 0; held && part < item->parts.size(); ++part) {
        if (const auto mapped = MappedSegment::map(held, item->parts[part].first, item->parts[part].second))
          touch(mapped->bytes());
      }
    }
  }

  void touch(std::span<std::byte> bytes) {
    if (!bytes.empty()) bytes.front() = bytes.back();
  }

  /// The head of the value's file.
  void write_over() {
    const int fd = ::open((folders().from() + "/" + value_.name).c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    const std::string bytes = input_.bytes(input_.below(24));
    static_cast<void>(!::pwrite(fd, bytes.data(), bytes.size(), input_.below(24)));
    ::close(fd);
  }

  void start_copy(const ValueId& value) {
    std::string error;
    copy_.reset();
    asked_.clear();
    right_ = true;
    copied_ = value;
    if (value.bytes > (1U << 24)) return;  // a file of that size
    copy_ = ValueCopy::make(folders().to(), value, error);
    BB_CHECK(copy_ || value.bytes <= kHeaderBytes || value.name != value_.name);
  }

  void copy_over() {
    if (input_.below(2) == 0) return start_copy(any_value());
    if (copy_) copy_->source_lost();
    asked_.clear();
  }

  void copy_next() {
    if (!copy_) return;
    const auto part = copy_->next();
    if (!part) return;
    BB_CHECK(part->count > 0 && part->offset + part->count <= copied_.bytes);
    asked_.push_back(*part);
  }

  /// What was asked for, from the value's own host or from whoever says anything.
  void chunk() {
    if (!copy_) return;
    ValueCopy::Part part{input_.number(), input_.number() % (2U << 20)};
    if (input_.below(4) != 0 && !asked_.empty()) part = asked_.back();
    Fetch fetch;
    fetch.value = copied_;
    fetch.offset = part.offset;
    fetch.count = part.count;
    const Message answer = read_chunk(fetch, folders().from());
    const Frame bytes = answer.frames.empty() ? Frame(std::string(part.count, '?')) : answer.frames.front();
    const bool fits = copy_->take(part.offset, bytes.bytes()).empty();
    if (fits) right_ = right_ && !answer.frames.empty();
    if (fits && !asked_.empty()) asked_.pop_back();
  }

  void finish() {
    if (!copy_) return;
    const bool complete = copy_->complete();
    const auto hold = copy_->finish();
    BB_CHECK(!hold || (complete && hold->bytes().size() == copied_.bytes));
    if (hold && right_)
      BB_CHECK(hold->bytes()[copied_.bytes - 1] == std::byte{'v'} || copied_.bytes != kBytes);
    if (complete) start_copy(value_);
  }

  fuzz::Input& input_;
  std::optional<SegmentPool::Lease> lease_;
  ValueId value_, copied_;
  std::unique_ptr<ValueCopy> copy_;
  std::vector<ValueCopy::Part> asked_;
  bool right_ = true;  // all that came was the value's
};

}  // namespace
}  // namespace betterbox

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  betterbox::fuzz::Input input(data, std::min<std::size_t>(size, 512));
  betterbox::Bench(input).run();
  return 0;
}
