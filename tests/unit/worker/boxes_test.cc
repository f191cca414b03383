// Boxes: their seats' lives, hosting, direct calls, stopping.
#include <cstring>

#include "tests/unit/worker/worker_fixture.h"

namespace betterbox {
namespace {

constexpr ClientRef kAlice{1}, kBob{2};
constexpr CallId kDeployment{{50}, 1};

class Boxes : public WorkerFixture {
 protected:
  void host(std::uint32_t slots, std::uint32_t first = 0) {
    feed(HostAsked{
        {kDeployment, {8090}, first, slots, first + slots, "box"}, Frame(std::string("definition")), false});
  }
  BoxId box(std::uint32_t id) { return {kSelf, {id}, seat(id).life}; }
  void call(std::uint64_t serial, BoxId to, const std::string& method = "f", ClientRef client = kAlice) {
    feed(BoxCallArrived{client, {serial, to, method}, Frame(std::string("arguments"))});
  }
  void answer(std::uint32_t id) {
    ASSERT_FALSE(seat(id).calls.empty());
    const std::uint64_t token = seat(id).calls.front().token;
    seat(id).calls.pop_front();
    feed(SeatReplied{{id}, seat(id).life, token, Frame(std::string("item"))});
  }
  LostCode refusal() {
    EXPECT_EQ(replies_.size(), 1u);
    if (replies_.empty()) return {};
    const auto item = parse_lost_item(replies_[0].item.bytes());
    EXPECT_TRUE(item);
    detail_ = item ? std::string(item->detail) : "";
    replies_.clear();
    return item ? item->code : LostCode{};
  }
  std::string detail_;
};

TEST_F(Boxes, AreOfferedOnceTheyAreReady) {
  make(3);
  host(1);
  EXPECT_TRUE(messages_.empty());
  ready(3, {{"name", kPlainMethod}});
  const auto offers = take<Offer>();
  ASSERT_EQ(offers.size(), 1u);
  EXPECT_EQ(offers[0].function_slots, 3u);
  ASSERT_EQ(offers[0].joined.size(), 1u);
  EXPECT_EQ(offers[0].joined[0].box, box(3));
  EXPECT_EQ(offers[0].joined[0].port, Port{8090});
  const auto hosted = take<Hosted>();
  ASSERT_EQ(hosted.size(), 1u);
  EXPECT_TRUE(hosted[0].ok);
}

TEST_F(Boxes, AreHostedWhenAllInstancesAreReady) {
  make(0);
  host(2);
  ready(0);
  EXPECT_TRUE(take<Hosted>().empty());
  ready(1);
  EXPECT_EQ(take<Hosted>().size(), 1u);
  EXPECT_EQ(take<Offer>().size(), 2u);
}

TEST_F(Boxes, KnowTheirInstanceNumber) {
  make(1);
  host(2, 3);
  std::uint32_t numbers[2];
  std::memcpy(numbers, seat(2).head.data(), 8);
  EXPECT_EQ(numbers[0], 4u);
  EXPECT_EQ(numbers[1], 1u);
}

TEST_F(Boxes, ThatCannotBeMadeEndTheWholeDeployment) {
  make(0);
  host(2);
  ready(0);
  take<Offer>();
  feed(SeatFailed{{1}, seat(1).life, Frame(std::string("error"))});
  die(1, 0);
  EXPECT_TRUE(seat(0).asked_to_stop);
  ASSERT_EQ(messages_.size(), 2u);
  EXPECT_EQ(messages_[0].body.index(), Body(Offer{}).index());
  const auto& hosted = std::get<Hosted>(messages_[1].body);
  EXPECT_FALSE(hosted.ok);
  EXPECT_EQ(messages_[1].frames.at(0).view(), "error");
  take_messages();
  turn();
  EXPECT_EQ(spawns_, 2);
}

TEST_F(Boxes, ThatDieAreMadeAnewWithANewLife) {
  make(0);
  host(1);
  ready(0);
  const BoxId old = box(0);
  call(1, old);
  answer(0);
  take_messages();
  die(0);
  auto offers = take<Offer>();
  ASSERT_EQ(offers.size(), 1u);
  EXPECT_EQ(offers[0].left, std::vector<BoxId>{old});
  EXPECT_EQ(seat(0).life, old.life + 1);
  ready(0);
  offers = take<Offer>();
  EXPECT_EQ(offers.at(0).joined.at(0).box, box(0));
}

TEST_F(Boxes, ThatKeepDyingAreGivenUp) {
  make(0);
  host(1);
  for (std::uint32_t i = 0; i < kMaxFruitlessLives; ++i) {
    EXPECT_EQ(spawns_, static_cast<int>(i) + 1);
    die(0);
    now_ = std::min(core_->next_deadline(), now_ + seconds(10));
    turn();
  }
  EXPECT_EQ(spawns_, static_cast<int>(kMaxFruitlessLives));
  const auto hosted = take<Hosted>();
  ASSERT_EQ(hosted.size(), 1u);
  EXPECT_FALSE(hosted[0].ok);
}

TEST_F(Boxes, GiveTheirLeasesBackWhenNoneIsLeft) {
  make(0);
  host(1);
  ready(0);
  begin(1, call_of(10), {0, 10}, {8090});
  feed(UndeployAsked{kDeployment});
  feed(SeatStopped{{0}, seat(0).life, {}});
  die(0, 0);
  turn();
  RangeSet back;
  for (const Released& released : take<Released>()) {
    for (const Range& r : released.ranges) back.insert(r);
  }
  EXPECT_EQ(back.size(), 10u);
  take_messages();
}

TEST_F(Boxes, RunLeasesOnlyOnTheirPort) {
  make(1);
  host(1);
  ready(1);
  begin(1, call_of(10), {0, 10}, {8090});
  EXPECT_FALSE(seats_.contains({0}));
  run_all(2);
  EXPECT_EQ(landed(1), (std::vector<Range>{{0, 10}}));
  take_messages();
}

TEST_F(Boxes, AnswerDirectCalls) {
  make(0);
  host(1);
  ready(0);
  take_messages();
  call(7, box(0));
  ASSERT_EQ(seat(0).calls.size(), 1u);
  EXPECT_EQ(seat(0).calls[0].method, "f");
  EXPECT_FALSE(seat(0).calls[0].express);
  answer(0);
  ASSERT_EQ(replies_.size(), 1u);
  EXPECT_EQ(replies_[0].client, kAlice);
  EXPECT_EQ(replies_[0].serial, 7u);
  EXPECT_EQ(replies_[0].item.view(), "item");
}

TEST_F(Boxes, TakeConcurrentAndAsyncMethodsByTheExpressRing) {
  make(0);
  host(1);
  ready(0, {{"a", kConcurrentMethod}, {"b", kAsyncMethod}, {"c", kPlainMethod}});
  call(1, box(0), "a");
  call(2, box(0), "b");
  call(3, box(0), "c");
  EXPECT_TRUE(seat(0).calls[0].express);
  EXPECT_TRUE(seat(0).calls[1].express);
  EXPECT_FALSE(seat(0).calls[2].express);
  take_messages();
}

TEST_F(Boxes, NameTheNearestMethods) {
  make(0);
  host(1);
  ready(0, {{"energy", kPlainMethod}, {"enemy", kPlainMethod}, {"forces", kPlainMethod}});
  call(1, box(0), "enrgy");
  EXPECT_EQ(refusal(), LostCode::kNoSuchMethod);
  EXPECT_EQ(detail_, "energy, enemy");
  take_messages();
}

TEST_F(Boxes, LetASandboxDecideWhichMethodsItHas) {
  make(0);
  host(1);
  ready(0, {}, true);
  call(1, box(0), "injected");
  EXPECT_EQ(seat(0).calls.size(), 1u);
  take_messages();
}

TEST_F(Boxes, RefuseCallsForAnEarlierLifeOrAnotherAgent) {
  make(1);
  host(1);
  ready(1);
  BoxId wrong = box(1);
  wrong.life += 1;
  call(1, wrong);
  EXPECT_EQ(refusal(), LostCode::kNoSuchBox);
  wrong = box(1);
  wrong.agent = {99};
  call(2, wrong);
  EXPECT_EQ(refusal(), LostCode::kNoSuchBox);
  call(3, {kSelf, {17}, 1});
  EXPECT_EQ(refusal(), LostCode::kNoSuchBox);
  call(4, {kSelf, {0}, 1});  // a plain function slot is no box
  EXPECT_EQ(refusal(), LostCode::kNoSuchBox);
  take_messages();
}

TEST_F(Boxes, LoseTheirDirectCallsWhenTheyDie) {
  make(0);
  host(1);
  ready(0);
  call(1, box(0));
  die(0, 6);
  ASSERT_EQ(replies_.size(), 1u);
  const auto item = parse_lost_item(replies_[0].item.bytes());
  ASSERT_TRUE(item);
  EXPECT_EQ(item->code, LostCode::kBoxLost);
  EXPECT_EQ(item->signal, 6);
  take_messages();
}

TEST_F(Boxes, CancelTheCallsOfAClientThatIsGone) {
  make(0);
  host(1);
  ready(0);
  call(1, box(0), "f", kAlice);
  call(1, box(0), "f", kBob);
  feed(ClientGone{kAlice});
  EXPECT_EQ(seat(0).cancelled.size(), 1u);
  answer(0);
  EXPECT_TRUE(replies_.empty());
  answer(0);
  ASSERT_EQ(replies_.size(), 1u);
  EXPECT_EQ(replies_[0].client, kBob);
  take_messages();
}

TEST_F(Boxes, AnswerALaneWhenItsBoxDies) {
  make(0);
  host(1);
  ready(0);
  feed(LaneAsked{kAlice, {7, box(0), 4711, 17, 1}});
  EXPECT_EQ(seat(0).lanes.size(), 1u);
  EXPECT_EQ(core_->direct_calls(), 0u) << "a lane is no call";
  const std::uint64_t token = *seat(0).lanes.begin();
  feed(LaneReplied{{0}, seat(0).life, token, 8, Frame(std::string("large"))});
  ASSERT_EQ(replies_.size(), 1u);
  EXPECT_EQ(replies_[0].serial, 8u);
  die(0, 9);
  ASSERT_EQ(replies_.size(), 2u);
  EXPECT_EQ(replies_[1].serial, 7u);
  const auto item = parse_lost_item(replies_[1].item.bytes());
  ASSERT_TRUE(item);
  EXPECT_EQ(item->code, LostCode::kBoxLost);
  take_messages();
}

TEST_F(Boxes, EndALaneWhoseClientIsGoneHoweverItWent) {
  make(0);
  host(1);
  ready(0);
  feed(LaneAsked{kAlice, {7, box(0), 4711, 17, 1}});
  feed(LaneAsked{kBob, {7, box(0), 4712, 17, 2}});
  feed(ClientGone{kAlice, true});
  feed(ClientGone{kBob, false});
  EXPECT_EQ(seat(0).cancelled, seat(0).lanes);
  EXPECT_TRUE(replies_.empty());
  take_messages();
}

TEST_F(Boxes, RefuseALaneToABoxThatIsNotThere) {
  make(0);
  host(1);
  ready(0);
  BoxId other = box(0);
  other.life += 1;
  feed(LaneAsked{kAlice, {7, other, 4711, 17, 1}});
  EXPECT_TRUE(seat(0).lanes.empty());
  ASSERT_EQ(replies_.size(), 1u);
  take_messages();
}

TEST_F(Boxes, FinishTheCallsOfAClientThatTookItsLeave) {
  make(0);
  host(1);
  ready(0);
  call(1, box(0), "f", kAlice);
  call(2, box(0), "f", kAlice);
  feed(ClientGone{kAlice, true});
  EXPECT_TRUE(seat(0).cancelled.empty());
  EXPECT_EQ(core_->direct_calls(), 2u);
  answer(0);
  answer(0);
  EXPECT_EQ(core_->direct_calls(), 0u);
  take_messages();
}

TEST_F(Boxes, DropAClientThatFloodsThem) {
  make(0);
  host(1);
  ready(0);
  for (std::uint64_t i = 0; i < kMaxDirectCallsInFlight; ++i) call(i + 1, box(0));
  EXPECT_TRUE(refusals_.empty());
  call(100'000, box(0));
  ASSERT_EQ(refusals_.size(), 1u);
  EXPECT_EQ(refusals_[0].refused.code, RefusalCode::kCapacity);
  take_messages();
}

TEST_F(Boxes, OfAScriptAreOpenedAndClosed) {
  make(0, true);
  EXPECT_EQ(core_->next_seat(), SeatId{0});
  feed(SeatOpened{{9090}, Frame(std::string("payload"))});
  ready(0);
  ASSERT_EQ(reports_.size(), 1u);
  EXPECT_EQ(reports_[0].kind, SeatReport::kOffered);
  EXPECT_EQ(take<Offer>().size(), 1u);
  feed(SeatCloseAsked{{0}});
  EXPECT_TRUE(seat(0).asked_to_stop);
  EXPECT_EQ(take<Offer>().at(0).left.size(), 1u);
  feed(SeatStopped{{0}, seat(0).life, Frame(std::string("not saved"))});
  ASSERT_EQ(reports_.size(), 2u);
  EXPECT_EQ(reports_[1].kind, SeatReport::kClosed);
  EXPECT_EQ(reports_[1].error.view(), "not saved");
}

TEST_F(Boxes, OfAScriptThatCannotBeMadeAreReported) {
  make(0, true);
  feed(SeatOpened{{9090}, Frame()});
  feed(SeatFailed{{0}, seat(0).life, Frame(std::string("why"))});
  ASSERT_EQ(reports_.size(), 1u);
  EXPECT_EQ(reports_[0].kind, SeatReport::kFailed);
}

TEST_F(Boxes, SaveWhenTheWorkerStopsAndFunctionsEndAtOnce) {
  make(1);
  begin(1, call_of(10), {0, 4});
  host(1);
  ready(1);
  feed(StopAsked{});
  EXPECT_EQ(discards_, 1);
  EXPECT_TRUE(seat(1).asked_to_stop);
  turn();
  EXPECT_FALSE(stopped_);
  feed(SeatStopped{{1}, seat(1).life, {}});
  die(1, 0);
  turn();
  EXPECT_TRUE(stopped_);
  take_messages();
}

TEST_F(Boxes, ThatDoNotStopAreKilled) {
  make(0);
  host(1);
  ready(0);
  feed(StopAsked{});
  EXPECT_EQ(core_->next_deadline(), now_ + kSlotStopGrace);
  pass(kSlotStopGrace);
  EXPECT_TRUE(seat(0).killed);
  die(0, 9);
  turn();
  EXPECT_TRUE(stopped_);
  take_messages();
}

}  // namespace
}  // namespace betterbox
