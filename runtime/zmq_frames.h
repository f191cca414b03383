// Messages of libzmq as values, for the files that own ZeroMQ. Frames above kCopyBelow bytes are shared, not copied.
#pragma once

#include <zmq.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "runtime/frame.h"
#include "runtime/unsent.h"

namespace betterbox {

/// Frames up to this size are copied: it costs less than a shared holder, and received ones would pin
/// libzmq's buffer.
inline constexpr std::size_t kCopyBelow = 512;

struct ZmqMessage {
  zmq_msg_t raw;
  ZmqMessage() { zmq_msg_init(&raw); }
  ~ZmqMessage() { zmq_msg_close(&raw); }
  ZmqMessage(const ZmqMessage&) = delete;
  ZmqMessage& operator=(const ZmqMessage&) = delete;
  std::span<const std::byte> bytes() {
    return {static_cast<const std::byte*>(zmq_msg_data(&raw)), zmq_msg_size(&raw)};
  }
};

[[noreturn]] inline void fail_zmq(const std::string& what) {
  throw std::runtime_error(what + ": " + zmq_strerror(zmq_errno()));
}

inline void set_option(void* socket, int option, int value) {
  if (zmq_setsockopt(socket, option, &value, sizeof value) != 0) fail_zmq("ZeroMQ refuses an option");
}

inline int descriptor_of(void* socket) {
  int fd = -1;
  std::size_t size = sizeof fd;
  if (zmq_getsockopt(socket, ZMQ_FD, &fd, &size) != 0) fail_zmq("ZeroMQ has no descriptor");
  return fd;
}

/// Result: false if there is nothing to receive.
inline bool receive_part(void* socket, zmq_msg_t* to) {
  while (zmq_msg_recv(to, socket, ZMQ_DONTWAIT) < 0)
    if (errno != EINTR) return false;
  return true;
}

inline bool send_part(void* socket, zmq_msg_t* part, bool more) {
  while (zmq_msg_send(part, socket, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)) < 0) {
    if (errno == EINTR) continue;
    zmq_msg_close(part);
    return false;
  }
  return true;
}

/// Result: false if the receiver is gone.
inline bool send_copy(void* socket, const void* data, std::size_t size, bool more) {
  zmq_msg_t part;
  if (zmq_msg_init_size(&part, size) != 0) return false;
  if (size > 0) std::memcpy(zmq_msg_data(&part), data, size);
  return send_part(socket, &part, more);
}

inline bool send_frame(void* socket, const Frame& frame, bool more) {
  if (frame.size() <= kCopyBelow) return send_copy(socket, frame.data(), frame.size(), more);
  auto* held = new Frame(frame);  // until zmq has written the bytes
  const auto release = [](void*, void* hint) { delete static_cast<Frame*>(hint); };
  zmq_msg_t part;
  if (zmq_msg_init_data(&part, const_cast<std::byte*>(frame.data()), frame.size(), release, held) != 0) {
    delete held;
    return false;
  }
  return send_part(socket, &part, more);
}

/// The same for a listener's connections, whose unsent bytes are counted: `charge` until these bytes have left.
inline bool send_counted(void* socket, const Frame& frame, std::size_t charge,
                         const std::shared_ptr<Unsent>& unsent, bool more) {
  struct Held {
    Frame frame;
    std::shared_ptr<Unsent> unsent;
    std::size_t charge;
  };
  unsent->charge(charge);
  auto* held = new Held{frame, unsent, charge};
  const auto release = [](void*, void* hint) {
    auto* done = static_cast<Held*>(hint);
    done->unsent->settle(done->charge);
    delete done;
  };
  zmq_msg_t part;
  if (zmq_msg_init_data(&part, const_cast<std::byte*>(frame.data()), frame.size(), release, held) != 0) {
    release(nullptr, held);
    return false;
  }
  return send_part(socket, &part, more);
}

inline Frame to_frame(ZmqMessage& part) {
  if (part.bytes().size() <= kCopyBelow) return Frame::copy_of(part.bytes());
  auto held = std::make_shared<ZmqMessage>();
  zmq_msg_move(&held->raw, &part.raw);
  const auto bytes = held->bytes();
  return Frame(held, bytes.data(), bytes.size());
}

}  // namespace betterbox
