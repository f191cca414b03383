// List: a doubly linked list whose links lie in its elements. Joining and leaving cost a few writes and no memory,
// and the order is that of joining. An element must leave before it dies.
#pragma once

#include <cstddef>

#include "runtime/check.h"

namespace betterbox::scheduler {

template <class T> struct Link {
  T* before = nullptr;
  T* behind = nullptr;
  bool linked = false;
};

template <class T, Link<T> T::*kLink> class List {
 public:
  List() = default;
  List(const List&) = delete;
  List& operator=(const List&) = delete;

  bool empty() const { return first_ == nullptr; }
  std::size_t size() const { return size_; }
  T* front() const { return first_; }
  T* back() const { return last_; }
  static T* next(const T& element) { return (element.*kLink).behind; }
  static T* previous(const T& element) { return (element.*kLink).before; }
  static bool contains(const T& element) { return (element.*kLink).linked; }

  /// REQUIRES: it is in no list of this link.
  void push_back(T& element) {
    Link<T>& link = element.*kLink;
    BB_CHECK(!link.linked);
    link = {last_, nullptr, true};
    (last_ == nullptr ? first_ : (last_->*kLink).behind) = &element;
    last_ = &element;
    ++size_;
  }

  /// REQUIRES: it is in no list of this link.
  void push_front(T& element) {
    Link<T>& link = element.*kLink;
    BB_CHECK(!link.linked);
    link = {nullptr, first_, true};
    (first_ == nullptr ? last_ : (first_->*kLink).before) = &element;
    first_ = &element;
    ++size_;
  }

  /// Does nothing if it is not in this list.
  void remove(T& element) {
    Link<T>& link = element.*kLink;
    if (!link.linked) return;
    (link.before == nullptr ? first_ : (link.before->*kLink).behind) = link.behind;
    (link.behind == nullptr ? last_ : (link.behind->*kLink).before) = link.before;
    link = {};
    --size_;
  }

 private:
  T* first_ = nullptr;
  T* last_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace betterbox::scheduler
