// Names of the message kinds, in the order of Body.
#include "runtime/messages.h"

#include <array>

#include "runtime/check.h"

namespace betterbox {
namespace {

constexpr std::array<const char*, std::variant_size_v<AnyBody>> kNames = {
    "Hello",       "Welcome",      "Refused",  "Bye",         "Offer",    "Watch",  "Unwatch",  "Boxes",
    "BoxCall",     "BoxCancel",    "BoxReply", "Call",        "Items",    "Cancel", "Forget",   "Results",
    "Acknowledge", "Settled",      "Explain",  "Explanation", "Context",  "Lease",  "Revoke",   "Released",
    "Abandon",     "DropCall",     "Outcomes", "Deploy",      "Host",     "Hosted", "Deployed", "Undeploy",
    "Status",      "StatusReport", "Accepted", "Load",        "OpenLane", "Hold",   "Drop",     "Keep",
    "Kept",        "Discard",      "Locate",   "Source",      "Fetch",    "Chunk",  "Fetched",  "Broadcast",
    "Relay",       "Waits",        "Deadlock", "Proof",       "Inquire",  "Begun"};

}  // namespace

Body::Body() = default;
Body::Body(const Body& other) = default;
Body::Body(Body&& other) noexcept = default;
Body& Body::operator=(const Body& other) = default;
Body& Body::operator=(Body&& other) noexcept = default;
Body::~Body() = default;

const char* kind_name(const Body& body) {
  BB_CHECK(!body.valueless_by_exception());
  return kNames[body.index()];
}

}  // namespace betterbox
