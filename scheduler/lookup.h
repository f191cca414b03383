// LookUp: a hash table without an order to be seen: it can be asked, but walked through only by ascending keys. So
// what a core does never depends on hashing.
#pragma once

#include <algorithm>
#include <unordered_map>
#include <vector>

namespace betterbox::scheduler {

template <class Key, class Value> class LookUp : private std::unordered_map<Key, Value> {
  using Table = std::unordered_map<Key, Value>;

 public:
  using Table::at;
  using Table::contains;
  using Table::empty;
  using Table::end;
  using Table::erase;
  using Table::find;
  using Table::size;
  using Table::try_emplace;
  using Table::operator[];

  /// All values by their keys. Costs a sort.
  std::vector<Value*> sorted() { return sorted_of<Value*>(*this); }
  std::vector<const Value*> sorted() const { return sorted_of<const Value*>(*this); }

 private:
  template <class Pointer, class Self> static std::vector<Pointer> sorted_of(Self& self) {
    std::vector<std::pair<Key, Pointer>> entries;
    entries.reserve(self.size());
    for (auto& [key, value] :
         static_cast<std::conditional_t<std::is_const_v<Self>, const Table&, Table&>>(self))
      entries.emplace_back(key, &value);
    std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<Pointer> values;
    values.reserve(entries.size());
    for (const auto& [key, value] : entries) values.push_back(value);
    return values;
  }
};

}  // namespace betterbox::scheduler
