// Messages drawn from a fuzzer's input, as decode() gives them to a core: whole messages of any kind, with numbers
// small enough to meet each other (ids, serials, ports, ranges), and now and then very large ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/codec.h"
#include "runtime/limits.h"
#include "runtime/page.h"
#include "tests/fuzz/input.h"

namespace betterbox::fuzz {

/// The body of a message: each field of it is drawn where an archive would write it.
class BodyDrawer {
 public:
  explicit BodyDrawer(Input& input) : input_(input), bytes_(kHeaderBytes, '\0') { bytes_.push_back('\1'); }
  template <class... T> void operator()(T&&... fields) { (draw(fields), ...); }
  std::string take() { return std::move(bytes_); }

 private:
  template <class T> void put(const T& value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  template <class T> void draw(T& value) {
    if constexpr (std::is_enum_v<T>) {
      put(static_cast<std::underlying_type_t<T>>(1 + input_.below(5)));
    } else if constexpr (std::is_same_v<T, bool>) {
      put(static_cast<std::uint8_t>(input_.below(2)));
    } else if constexpr (std::is_integral_v<T>) {
      put(static_cast<T>(input_.number()));
    } else if constexpr (std::is_floating_point_v<T>) {
      constexpr T kOdd[] = {
          0, 1, -1, T(1e30), std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()};
      put(kOdd[input_.below(std::size(kOdd))]);
    } else if constexpr (std::is_same_v<T, std::string>) {
      const std::string text = input_.text();
      put(std::uint64_t{text.size()});
      bytes_ += text;
    } else {
      draw_object(value);
    }
  }
  template <class Tag, class Rep> void draw_object(StrongId<Tag, Rep>& id) { draw(id.value); }
  void draw_object(CallId& id) { (*this)(id.client, id.serial); }
  void draw_object(BoxId& id) { (*this)(id.agent, id.seat, id.life); }
  void draw_object(Range&) {
    const std::uint64_t begin = input_.number(), size = input_.number();
    put(begin);
    put(begin + size < begin ? begin : begin + size);
  }
  template <class T> void draw_object(std::vector<T>&) {
    const std::uint64_t count = input_.below(4);
    put(count);
    for (std::uint64_t i = 0; i < count; ++i) {
      T element{};
      draw(element);
    }
  }
  template <class T> void draw_object(T& object) {
    if constexpr (requires { object.serialize(*this); }) object.serialize(*this);
  }

  Input& input_;
  std::string bytes_;
};

inline Frame draw_page(Input& input, std::uint64_t count) {
  if (count == 0 || count > 64 || input.below(8) == 0) return Frame(std::string(input.below(40), 'j'));
  if (input.below(4) == 0) return make_int_range_page(0, 1, count);
  PageBuilder builder;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string item =
        input.below(6) == 0 ? make_lost_item(LostCode::kPoisoned, i, {}, "x") : std::string("\x01", 1);
    builder.add(std::as_bytes(std::span(item)));
  }
  return builder.finish();
}

template <class Variant, std::size_t... kIndex>
std::string draw_body(Input& input, std::size_t index, std::index_sequence<kIndex...>) {
  BodyDrawer drawer(input);
  ((kIndex == index ? [&] {
     std::variant_alternative_t<kIndex, Variant> body{};
     drawer(body);
   }()
                    : void()),
   ...);
  return drawer.take();
}

/// A Relay carries another message, mostly. Result: nothing where what was drawn is no message.
inline std::optional<Message> draw_message(Input& input, std::size_t index) {
  constexpr std::size_t kKinds = std::variant_size_v<AnyBody>;
  index %= kKinds;
  std::string first = draw_body<AnyBody>(input, index, std::make_index_sequence<kKinds>{});
  for (std::uint32_t frames = 0; frames <= 3; ++frames) {
    const std::uint32_t magic = kMagic, body = static_cast<std::uint32_t>(first.size() - kHeaderBytes);
    const std::uint16_t version = kProtocolVersion, kind = static_cast<std::uint16_t>(index + 1);
    std::memcpy(first.data(), &magic, 4);
    std::memcpy(first.data() + 4, &version, 2);
    std::memcpy(first.data() + 6, &kind, 2);
    std::memcpy(first.data() + 8, &frames, 4);
    std::memcpy(first.data() + 12, &body, 4);
    auto decoded = decode(std::as_bytes(std::span(first)), Frames(frames, Frame(std::string("f"))));
    auto* message = std::get_if<Message>(&decoded);
    if (message == nullptr) continue;
    std::visit(
        [&](const auto& it) {
          if constexpr (requires { it.spans; }) {
            for (std::size_t i = 0; i < it.spans.size(); ++i)
              message->frames[i] = draw_page(input, it.spans[i].count);
          }
        },
        message->body);
    if (const auto* relay = std::get_if<Relay>(&message->body); relay != nullptr && !relay->over) {
      const auto carried = draw_message(input, input.byte());
      if (!carried || std::holds_alternative<Relay>(carried->body)) return std::move(*message);
      message->frames = {Frame(encode(*carried))};
      message->frames.insert(message->frames.end(), carried->frames.begin(), carried->frames.end());
    }
    return std::move(*message);
  }
  return std::nullopt;
}

}  // namespace betterbox::fuzz
