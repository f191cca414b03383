// The agent's loop (worker/agent_loop.h).
#include "worker/agent_loop.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "runtime/bus_file.h"
#include "runtime/bus_start.h"
#include "runtime/check.h"
#include "runtime/descriptor_limit.h"
#include "runtime/printable.h"
#include "runtime/segment_pool.h"

namespace betterbox {
namespace {

constexpr Duration kRetryInterval = milliseconds(200);
/// Processes end, and the last outcomes arrive, before an allocation does.
constexpr Duration kEndReserve = seconds(3);
/// Messages taken from the transport before effects leave and rings are looked at.
constexpr int kMessagesPerTurn = 256;

/// Random bits, not all 0.
std::uint64_t draw() {
  std::uint64_t bits = 0;
  while (bits == 0)
    if (::getrandom(&bits, sizeof bits, 0) != static_cast<ssize_t>(sizeof bits))
      throw std::runtime_error("no randomness for a peer id");
  return bits;
}

}  // namespace

PeerId make_peer_id() { return {draw()}; }
Proof make_proof() { return {draw(), draw()}; }

AgentLoop::AgentLoop(const Options& options, std::unique_ptr<Transport> transport, Observer& observer)
    : options_(options),
      self_(options.self ? options.self : make_peer_id()),
      observer_(observer),
      transport_(std::move(transport)),
      core_({self_, options.function_slots, options.in_process, options.capacity, options.devices}),
      executor_({options.in_process, options.function_slots > 0, options.templates, options.bell_fd,
                 options.log_folder, printable(options.name), options.echo}),
      links_(*transport_, link_users()),
      values_(
          kSegmentFolder, [this](Message&& message) { send(scheduler_, message); },
          [this](const std::string& endpoint, const Fetch& fetch) {
            links_.send(monotonic_now(), endpoint, fetch);
          },
          [this](CallId call) { feed(ValuesArrived{call}); }, broadcaster()),
      sampler_(options.capacity.memory_bytes),
      endpoint_(options.scheduler_endpoint),
      relayed_([this](const Message& message) { send(scheduler_, message); }) {
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) throw std::runtime_error("no eventfd");
  socket_path_ = agent_socket_path(options_.socket_folder, self_);
  local_endpoint_ = options_.listen_endpoint.empty() ? "ipc://" + socket_path_ : options_.listen_endpoint;
  transport_->listen(local_endpoint_);
  listen_on_network(options_.bus_file.empty() ? std::nullopt : read_bus_file(options_.bus_file));
  lost_since_ = monotonic_now();
  if (!options_.in_process) sample_at_ = lost_since_;
  if (!store_id().empty()) sweep_at_ = lost_since_ + kSegmentSweepInterval;
  connect();
}

/// Where the bus has a network and this agent does not listen there under its present keys.
void AgentLoop::listen_on_network(const std::optional<BusInfo>& bus) {
  if (!bus || bus->network_endpoint.empty() || options_.interface == kNoInterface ||
      bus->keys == network_keys_)
    return;
  try {
    const std::string address = advertised_address(options_.interface, bus->network_endpoint);
    network_endpoint_ = transport_->listen("tcp://" + address + ":0");
    network_keys_ = bus->keys;
  } catch (const std::exception& error) {
    if (sessions_ == 0 && !options_.interface.empty())
      throw;  // somebody asked for it, and is there to be told
    observer_.log(std::string("not reachable from other hosts: ") + error.what());
  }
}

AgentLoop::~AgentLoop() {
  hang_up();
  ::close(wake_fd_);
}

void AgentLoop::hang_up() {
  if (transport_ == nullptr) return;
  transport_.reset();
  if (!options_.listen_endpoint.empty()) return;
  ::unlink(socket_path_.c_str());
  ::rmdir(options_.socket_folder.c_str());  // the last one of this bus on a host without its scheduler
}

// --- the scheduler ----------------------------------------------------------------------------------

Hello AgentLoop::make_hello() const {
  Hello hello;
  hello.role = options_.in_process && options_.function_slots == 0 ? Role::kBoxHost : Role::kWorker;
  hello.peer = self_;
  hello.python = options_.python_version;
  hello.host = host_name();
  hello.boot_id = boot_id();
  hello.pid = static_cast<std::uint32_t>(::getpid());
  hello.name = options_.name;
  hello.endpoint = local_endpoint_;
  hello.network_endpoint = network_endpoint_;
  hello.log_folder = options_.log_folder;
  hello.background = options_.background;
  hello.store = store_id();
  return hello;
}

/// How values come from other agents. What is sent to these counts as sent: the transport is looked at again.
ValueLinks::Users AgentLoop::link_users() {
  ValueLinks::Users users;
  users.hello = [this] {
    Hello hello = make_hello();
    hello.session = 1;
    return hello;
  };
  users.relay = [this](Message&& message) { send(scheduler_, message); };
  users.chunk = [this](const Chunk& chunk, const Frames& frames) {
    values_.on_chunk(monotonic_now(), chunk, frames);
  };
  users.lost = [this](PeerId source) { values_.source_lost(source); };
  return users;
}

/// Where the transport cannot broadcast, nothing.
ValueBroadcaster AgentLoop::broadcaster() {
  if (!transport_->can_broadcast()) return {};
  return {[this](BroadcastPart&& part) { transport_->enter(std::move(part)); },
          [this](std::uint64_t sequence) { transport_->leave(sequence); },
          rank_in(options_.listen_endpoint).value_or(0)};
}

void AgentLoop::connect() {
  retry_at_ = TimePoint::never();
  scheduler_ = transport_->connect(endpoint_);
  session_ = Session::kGreeting;
  greeting_ends_ = monotonic_now() + kLivenessBound;
  Hello hello = make_hello();
  hello.session = ++sessions_;
  hello.leases = core_.held_leases();
  send(scheduler_, {proof_, {}});
  send(scheduler_, {std::move(hello), {}});
}

void AgentLoop::scheduler_closed(const std::string& reason) {
  const TimePoint now = monotonic_now();
  if (session_ == Session::kOpen) {
    lost_since_ = now;
    observer_.log("the scheduler is gone (" + reason + "); looking for it");
    feed(SessionEnded{});
  }
  last_trouble_ = reason;
  for (const ConnectionId client : relayed_.ended_all()) client_closed(client);
  session_ = Session::kNone;
  greeting_ends_ = TimePoint::never();
  retry_at_ = now + kRetryInterval;
}

/// A new scheduler may have taken the bus over: its file says where it is.
void AgentLoop::look_for_scheduler() {
  const Duration patience = was_open_ ? return_patience(endpoint_) : kReturnPatience;
  if (monotonic_now() - lost_since_ > patience) {
    return finish(End::kBusLost, "the scheduler at " + endpoint_ +
                                     " does not answer and did not come back (" + last_trouble_ + ")");
  }
  try {
    if (!options_.bus_file.empty()) {
      const auto bus = read_bus_file(options_.bus_file);
      const auto endpoint = bus ? reach_bus(*bus) : std::nullopt;
      if (endpoint) endpoint_ = *endpoint;
      listen_on_network(bus);
    }
  } catch (const std::exception& error) {
    observer_.log(error.what());
  }
  connect();
}

TimePoint AgentLoop::session_deadline() const { return std::min(greeting_ends_, retry_at_); }

void AgentLoop::refused(const Refused& refused) {
  transport_->close(scheduler_);
  session_ = Session::kNone;
  greeting_ends_ = TimePoint::never();
  if (refused.code != RefusalCode::kEnding) return finish(End::kRefused, refused.text);
  retry_at_ = TimePoint::never();
  observer_.log("the bus ends: " + refused.text);
  feed(SessionEnded{});
  end_text_ = "the bus has ended";
  request_stop();
}

void AgentLoop::from_scheduler(Message&& message) {
  Frames& frames = message.frames;
  auto first_frame = [&] { return frames.empty() ? Frame() : std::move(frames.front()); };
  if (auto* welcome = std::get_if<Welcome>(&message.body)) {
    if (session_ != Session::kGreeting || welcome->session != sessions_) return;
    session_ = Session::kOpen;
    was_open_ = true;
    greeting_ends_ = TimePoint::never();
    feed(SessionBegan{welcome->peer, std::move(welcome->dropped_leases)});
    values_.session_began(monotonic_now());
    observer_.welcomed();
  } else if (auto* refusal = std::get_if<Refused>(&message.body)) {
    refused(*refusal);
  } else if (session_ != Session::kOpen || about_values(message)) {
    return;
  } else if (auto* context = std::get_if<Context>(&message.body)) {
    feed(ContextArrived{std::move(*context), first_frame()});
  } else if (auto* lease = std::get_if<Lease>(&message.body)) {
    feed(LeaseGranted{std::move(*lease), std::move(frames)});
  } else if (auto* revoke = std::get_if<Revoke>(&message.body)) {
    feed(RevokeAsked{revoke->lease, revoke->count});
  } else if (auto* abandon = std::get_if<Abandon>(&message.body)) {
    feed(ItemsAbandoned{abandon->lease, abandon->range});
  } else if (auto* drop = std::get_if<DropCall>(&message.body)) {
    feed(CallDropped{drop->call});
    values_.forget(drop->call);
  } else if (auto* acknowledge = std::get_if<Acknowledge>(&message.body)) {
    feed(AcknowledgeArrived{acknowledge->ack});
  } else if (auto* host = std::get_if<Host>(&message.body)) {
    feed(HostAsked{std::move(*host), first_frame(), false});
  } else if (auto* undeploy = std::get_if<Undeploy>(&message.body)) {
    feed(UndeployAsked{undeploy->deployment});
  } else if (const auto* relay = std::get_if<Relay>(&message.body)) {
    from_relayed(*relay, std::move(frames));
  } else if (std::holds_alternative<Bye>(message.body)) {
    refused({RefusalCode::kEnding, "the scheduler said goodbye"});
  } else {
    observer_.log(std::string("unexpected from the scheduler: ") + kind_name(message.body));
  }
}

/// Result: false if it is none of those about values.
bool AgentLoop::about_values(Message& message) {
  const TimePoint now = monotonic_now();
  if (const auto* keep = std::get_if<Keep>(&message.body)) {
    values_.keep(now, *keep);
  } else if (const auto* discard = std::get_if<Discard>(&message.body)) {
    values_.discard(discard->name);
  } else if (const auto* source = std::get_if<Source>(&message.body)) {
    values_.on_source(now, *source);
  } else if (const auto* fetch = std::get_if<Fetch>(&message.body)) {
    send(scheduler_, read_chunk(*fetch));
  } else if (const auto* chunk = std::get_if<Chunk>(&message.body)) {
    values_.on_chunk(now, *chunk, message.frames);
  } else if (const auto* broadcast = std::get_if<Broadcast>(&message.body)) {
    values_.on_broadcast(now, *broadcast);
  } else {
    return false;
  }
  return true;
}

void AgentLoop::finish(End end, std::string text) {
  if (end_ != End::kRunning) return;
  end_ = end;
  end_text_ = std::move(text);
  if (!options_.in_process) executor_.kill_all();
}

void AgentLoop::request_stop() {
  if (std::exchange(stopping_, true)) return;
  feed(StopAsked{});
}

void AgentLoop::request_drain(const std::string& why) {
  const TimePoint now = monotonic_now();
  drain_until_ = std::min({drain_until_, now + options_.drain_time, end_of_work()});
  if (std::exchange(draining_, true) || stopping_) return;
  drain_asked_ = now;
  observer_.log(why + "; what runs may end, the rest goes back");
  sample_load(now);
  fed_ = true;
}

void AgentLoop::kill() { finish(End::kStopped, "killed"); }

SeatId AgentLoop::open_seat(Port port, std::string payload) {
  const SeatId seat = core_.next_seat();
  feed(SeatOpened{port, Frame(std::move(payload))});
  return seat;
}

// --- clients --------------------------------------------------------------------------------------------

void AgentLoop::from_client(ConnectionId from, Message&& message) {
  auto [at, fresh] = clients_.try_emplace(from, false);
  if (auto* hello = std::get_if<Hello>(&message.body)) return greet(from, *hello);
  if (!at->second) return drop_client(from, RefusalCode::kProtocol, "the first message must be Hello");
  if (const auto* fetch = std::get_if<Fetch>(&message.body)) {
    send(from, read_chunk(*fetch));
  } else if (auto* call = std::get_if<BoxCall>(&message.body)) {
    if (RelayedClients::owns(from) && core_.direct_calls_of({from.value}) >= kMaxRelayedCallsInFlight)
      return drop_client(from, RefusalCode::kCapacity, "too many calls are under way through the scheduler");
    feed(BoxCallArrived{{from.value},
                        std::move(*call),
                        message.frames.empty() ? Frame() : std::move(message.frames.front())});
  } else if (auto* lane = std::get_if<OpenLane>(&message.body)) {
    feed(LaneAsked{{from.value}, *lane});
  } else if (auto* cancel = std::get_if<BoxCancel>(&message.body)) {
    feed(BoxCallCancelled{{from.value}, cancel->serial});
  } else if (std::holds_alternative<Bye>(message.body)) {
    close_client(from);
    clients_.erase(from);
    feed(ClientGone{{from.value}, true});
  } else {
    drop_client(from, RefusalCode::kProtocol, std::string("an agent takes no ") + kind_name(message.body));
  }
}

void AgentLoop::greet(ConnectionId from, const Hello& hello) {
  if (clients_[from]) return drop_client(from, RefusalCode::kProtocol, "a second Hello");
  if (hello.role == Role::kScheduler)
    return drop_client(from, RefusalCode::kIdentity, "an agent talks to clients and agents only");
  if (!can_open(kReservedDescriptors)) {
    return drop_client(from, RefusalCode::kCapacity,
                       "the worker on " + host_name() + " can take no more clients: " + descriptor_advice());
  }
  clients_[from] = true;
  Welcome welcome;
  welcome.peer = self_;
  welcome.session = hello.session;
  welcome.host = host_name();
  welcome.pid = static_cast<std::uint32_t>(::getpid());
  welcome.store = store_id();
  send(from, {std::move(welcome), {}});
}

void AgentLoop::drop_client(ConnectionId client, RefusalCode code, const std::string& text) {
  send(client, {Refused{code, text}, {}});
  close_client(client);
  client_closed(client);
}

void AgentLoop::close_client(ConnectionId client) {
  RelayedClients::owns(client) ? relayed_.close(client) : transport_->close(client);
}

/// From a client that cannot reach this agent itself.
void AgentLoop::from_relayed(const Relay& relay, Frames&& frames) {
  if (relay.over) {
    if (const auto client = relayed_.ended(relay.peer)) client_closed(*client);
    return;
  }
  const ConnectionId client = relayed_.link_of(relay.peer);
  auto inner = unwrap(std::move(frames));
  if (auto* message = std::get_if<Message>(&inner)) return from_client(client, std::move(*message));
  observer_.log("dropped a client: " + std::get<DecodeError>(inner).reason);
  close_client(client);
  client_closed(client);
}

void AgentLoop::client_closed(ConnectionId client) {
  if (clients_.erase(client) > 0) feed(ClientGone{{client.value}});
}

// --- events and effects -----------------------------------------------------------------------------

void AgentLoop::feed(Event&& event) {
  fed_ = true;
  core_.handle(monotonic_now(), std::move(event), effects_);
  run_effects();
}

/// In order; what an effect causes (CutDone) is appended and carried out in the same turn.
void AgentLoop::run_effects() {
  if (std::exchange(carrying_out_, true)) return;
  while (effects_done_ < effects_.send.size()) {
    Effect effect = std::move(effects_.send[effects_done_++]);
    std::visit([this](auto&& e) { carry_out(std::move(e)); }, std::move(effect));
  }
  effects_.send.clear();
  effects_done_ = 0;
  carrying_out_ = false;
}

void AgentLoop::carry_out(SpawnSeat&& e) {
  const SeatId seat = e.seat;
  const std::uint32_t life = e.life;
  const bool for_functions = e.payload.empty();
  try {
    executor_.spawn(std::move(e));
    if (options_.in_process && options_.function_slots > 0) observer_.seat_spawned(seat, for_functions);
  } catch (const std::exception& error) {  // out of descriptors or memory: as if its process had died
    observer_.log(std::string("no slot could be made: ") + error.what());
    SeatDied died;
    died.seat = seat;
    died.life = life;
    died.death.exit_code = 1;
    feed(std::move(died));
  }
}
void AgentLoop::carry_out(KillSeat&& e) { executor_.kill(e.seat); }
void AgentLoop::carry_out(DiscardSeat&& e) { executor_.discard(e.seat); }
void AgentLoop::carry_out(StopSeat&& e) { executor_.stop(e.seat); }
void AgentLoop::carry_out(SendContext&& e) { executor_.send_context(std::move(e)); }
void AgentLoop::carry_out(DropContext&& e) { executor_.drop_context(e); }
void AgentLoop::carry_out(InstallLease&& e) { executor_.install(std::move(e)); }
void AgentLoop::carry_out(CutLease&& e) { feed(executor_.cut(e)); }
void AgentLoop::carry_out(CallSeat&& e) { executor_.call(std::move(e)); }
void AgentLoop::carry_out(OpenSeatLane&& e) { executor_.open_lane(e); }
void AgentLoop::carry_out(CancelSeatCall&& e) { executor_.cancel(e); }
void AgentLoop::carry_out(SendToScheduler&& e) { send(scheduler_, e.message); }
void AgentLoop::carry_out(ReplyToClient&& e) {
  const ConnectionId client{e.client.value};
  const bool large = e.item.size() > kMaxReplyBytes / kMaxDirectCallsInFlight;
  send(client, {BoxReply{e.serial}, {std::move(e.item)}});
  if (large && transport_->unsent_bytes(client) > kMaxReplyBytes &&
      transport_->stalled_for(client) > kReplyPatience)
    drop_client(client, RefusalCode::kCapacity, "it does not read the replies that it asked for");
}
void AgentLoop::carry_out(RefuseClient&& e) { drop_client({e.client.value}, e.refused.code, e.refused.text); }
void AgentLoop::carry_out(SeatReport&& e) { observer_.seat_reported(e); }
void AgentLoop::carry_out(HostingReport&& e) { observer_.hosting_reported(e); }
void AgentLoop::carry_out(LogLine&& e) { observer_.log(e.text); }
void AgentLoop::carry_out(GetValues&& e) { values_.get(monotonic_now(), e.call, e.values); }
void AgentLoop::carry_out(Stopped&&) {
  if (session_ == Session::kOpen) {
    send(scheduler_, {Bye{}, {}});
    transport_->close(scheduler_);
  }
  finish(End::kStopped, end_text_);
}

void AgentLoop::send(ConnectionId to, const Message& message) {
  if (RelayedClients::owns(to)) return relayed_.send(to, message);
  sent_ = true;
  transport_->send(to, message);  // a connection that is over says so itself
}

void AgentLoop::post(std::function<void()> job) {
  {
    std::lock_guard lock(jobs_mutex_);
    jobs_.push_back(std::move(job));
  }
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_fd_, &one, sizeof one);
}

void AgentLoop::run_jobs() {
  std::deque<std::function<void()>> jobs;
  {
    std::lock_guard lock(jobs_mutex_);
    jobs.swap(jobs_);
  }
  for (auto& job : jobs) job();
}

void AgentLoop::receive_messages() {
  sent_ = false;
  for (int i = 0; i < kMessagesPerTurn && end_ == End::kRunning; ++i) {
    auto event = transport_->receive();
    if (!event) return;
    if (links_.take(monotonic_now(), *event)) continue;
    const bool scheduler = event->connection == scheduler_;
    if (event->kind == TransportEvent::kBroadcast) {
      values_.on_broadcast_over(monotonic_now(), event->sequence, event->ok);
    } else if (event->kind == TransportEvent::kClosed) {
      scheduler ? scheduler_closed(event->reason) : client_closed(event->connection);
    } else {
      scheduler ? from_scheduler(std::move(event->message))
                : from_client(event->connection, std::move(event->message));
    }
  }
  sent_ = true;  // there may be more
}

void AgentLoop::collect() {
  events_.clear();
  executor_.collect(events_, !core_.draining_paused());
  for (Event& event : events_) feed(std::move(event));
  for (const std::string& warning : executor_.take_warnings()) observer_.log(warning);
  const Template* own = executor_.own_template();
  if (own == nullptr) return;
  if (own->up() && !std::exchange(template_announced_, true)) observer_.template_up();
  if (own->gone) finish(End::kBroken, own->error);
}

bool AgentLoop::turn_once(TimePoint deadline) {
  run_jobs();
  receive_messages();
  collect();
  const TimePoint now = monotonic_now();
  if (greeting_ends_ <= now) {
    transport_->close(scheduler_);
    scheduler_closed("it does not answer");
  }
  if (retry_at_ <= now && end_ == End::kRunning && !stopping_) look_for_scheduler();
  if (sample_at_ <= now) sample_load(now);
  if (sweep_at_ <= now) {
    sweep_segments(kSegmentFolder);
    sweep_at_ = now + kSegmentSweepInterval;
  }
  look_after_end(now);
  if (session_ == Session::kOpen && values_.next_deadline() <= now) values_.on_deadline(now);
  if (links_.next_deadline() <= now) links_.on_deadline(now);
  if (fed_ || core_.next_deadline() <= now) {
    feed(TurnEnded{});
    fed_ = false;
  }
  if (end_ != End::kRunning) return false;
  if (!core_.draining_paused()) executor_.look(now);
  executor_.flush();
  if (!sent_) wait(deadline);
  return true;
}

void AgentLoop::sample_load(TimePoint now) {
  if (const std::string told = transport_->mend_listeners(); !told.empty()) observer_.log(told);
  sample_at_ = now + kSampleInterval;
  LoadSampled load = sampler_.sample(now, executor_.pids());
  load.ending = draining_;
  const TimePoint work_ends = std::min(end_of_work(), drain_until_);
  if (work_ends != TimePoint::never()) load.time_left = std::max(work_ends - now, milliseconds(1));
  load.paused = load.paused || draining_;  // draining is a pause that does not end
  feed(std::move(load));
}

/// The host's time is over soon, or what ran when it was told to end is over.
void AgentLoop::look_after_end(TimePoint now) {
  if (stopping_) return;
  if (!draining_ && end_deadline() <= now) request_drain("the allocation ends soon");
  if (draining_ && (core_.settled() || drain_deadline() <= now)) request_stop();
}

/// When nothing may run any more.
TimePoint AgentLoop::end_of_work() const {
  return options_.ends == TimePoint::never() ? options_.ends : TimePoint{options_.ends.ns - kEndReserve.ns};
}

TimePoint AgentLoop::drain_deadline() const {
  if (session_ == Session::kOpen) return drain_until_;
  return std::min(drain_until_, std::max(drain_asked_, lost_since_) + kDrainWithoutScheduler);
}

TimePoint AgentLoop::end_deadline() const {
  if (stopping_ || (!draining_ && options_.ends == TimePoint::never())) return TimePoint::never();
  return draining_ ? drain_deadline() : TimePoint{options_.ends.ns - options_.drain_time.ns};
}

/// Sleeps until something happens. While outcomes come fast, slots are not asked to ring: a look now and then
/// (WorkerCore::drain_interval()) is cheaper than a wake-up for each. A slot whose part ends rings in any case.
void AgentLoop::wait(TimePoint deadline) {
  deadline = std::min({deadline, core_.next_deadline(), sample_at_, sweep_at_, end_deadline(),
                       links_.next_deadline(),
                       session_ == Session::kOpen ? values_.next_deadline() : TimePoint::never(),
                       stopping_ ? TimePoint::never() : session_deadline()});
  TimePoint now = monotonic_now();
  const bool look_again = executor_.busy() && core_.direct_calls() == 0 && !core_.draining_paused();
  if (look_again) {
    deadline = std::min(deadline, now + core_.drain_interval());
  } else if (!core_.draining_paused() && !executor_.prepare_sleep()) {
    executor_.wake_up();
    return;
  }
  std::vector<pollfd> entries;
  for (const int fd : transport_->wait_fds()) entries.push_back({fd, POLLIN, 0});
  entries.push_back({executor_.wait_fd(), POLLIN, 0});
  entries.push_back({wake_fd_, POLLIN, 0});
  const std::size_t first_watched = entries.size();
  for (const Watched& watched : watched_) entries.push_back({watched.fd, POLLIN, 0});
  timespec timeout{};
  const bool bounded = deadline != TimePoint::never();
  const std::int64_t left = std::max<std::int64_t>(deadline.ns - now.ns, 0);
  timeout.tv_sec = left / 1'000'000'000;
  timeout.tv_nsec = left % 1'000'000'000;
  watch_.sleeps();
  const int ready = ::ppoll(entries.data(), entries.size(), bounded ? &timeout : nullptr, nullptr);
  watch_.wakes();
  executor_.wake_up();
  if (ready <= 0) return;
  if (entries[first_watched - 1].revents != 0) {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t n = ::read(wake_fd_, &count, sizeof count);
  }
  for (std::size_t i = watched_.size(); i-- > 0;) {
    if (entries[first_watched + i].revents == 0 || watched_[i].ready()) continue;
    watched_.erase(watched_.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

}  // namespace betterbox
