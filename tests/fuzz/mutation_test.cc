// The fuzz targets, run everywhere: good messages, pages and files with a few bytes changed, cut or doubled, and inputs
// of any bytes for what draws from them, from a fixed seed. Nothing may crash (run it under ASan), and what still decodes must encode to the same bytes.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>

#include "cluster/mpi_packet.h"
#include "runtime/codec.h"
#include "runtime/page.h"
#include "tests/golden/samples.h"

extern "C" int fuzz_arena(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_bus_file(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_client(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_codec(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_lane(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_link(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_mpi(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_page(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_ring(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_scheduler(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_strip(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_text(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_value(const std::uint8_t* data, std::size_t size);
extern "C" int fuzz_worker(const std::uint8_t* data, std::size_t size);

namespace betterbox {
namespace {

using Target = int (*)(const std::uint8_t*, std::size_t);
constexpr int kMutantsPerSeed = 3000;

void mutate(std::string& bytes, std::mt19937_64& random) {
  const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
  const std::size_t changes = 1 + below(4);
  for (std::size_t i = 0; i < changes && !bytes.empty(); ++i) {
    const std::size_t at = below(bytes.size());
    switch (below(6)) {
      case 0: bytes[at] = static_cast<char>(random()); break;
      case 1: bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8))); break;
      case 2: bytes.resize(at); break;
      case 3: bytes.insert(at, bytes.substr(at, below(16))); break;
      case 4: bytes[at] = static_cast<char>(below(2) ? 0xFF : 0); break;
      default: bytes.erase(at, below(16)); break;
    }
  }
}

void run_mutants(const std::vector<std::string>& seeds, Target target, bool repair_header) {
  std::mt19937_64 random(20240601);
  for (const std::string& seed : seeds) {
    for (int i = 0; i < kMutantsPerSeed; ++i) {
      std::string mutant = seed;
      mutate(mutant, random);
      if (repair_header && mutant.size() > kHeaderBytes + 1 && i % 4 != 0) {
        const auto body = static_cast<std::uint32_t>(mutant.size() - kHeaderBytes - 1);
        mutant.replace(1, 12, seed, 1, 12);  // else most die at the door
        std::memcpy(mutant.data() + 1 + 12, &body, sizeof body);
      }
      target(reinterpret_cast<const std::uint8_t*>(mutant.data()), mutant.size());
    }
  }
}

/// Bytes of a seed that are as good as any: each is an operation.
void run_random(Target target, int runs, std::size_t size) {
  std::mt19937_64 random(20240601);
  for (int run = 0; run < runs; ++run) {
    std::string bytes(random() % size, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random() % 3 == 0 ? random() : random() % 9);
    target(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  }
}

TEST(Mutation, MemoryOfSlotsThatWasWrittenOverNeverHarmsTheirAgent) { run_random(&fuzz_arena, 3000, 400); }

TEST(Mutation, RingsOfLanesThatWereWrittenOverAreReadRightlyOrBroken) { run_random(&fuzz_lane, 3000, 200); }

TEST(Mutation, RecordsOfRingsArriveInPiecesAndRingsThatWereWrittenOverAreNoticed) {
  run_random(&fuzz_ring, 2000, 200);
}

TEST(Mutation, StripsThatWereWrittenOverGiveWholeOutcomesOrNothing) { run_random(&fuzz_strip, 4000, 200); }

TEST(Mutation, MessagesOfLinksArriveInPiecesAndFalseClaimsEndTheLink) { run_random(&fuzz_link, 3000, 200); }

TEST(Mutation, ValuesArriveWholeOrNotAtAllWhateverPeersAndFilesSay) { run_random(&fuzz_value, 2000, 80); }

/// Inputs for targets that draw what happens from them: anything means something.
void run_drawn(Target target, int runs, std::size_t most_bytes) {
  std::mt19937_64 random(20240601);
  for (int i = 0; i < runs; ++i) {
    std::string input(1 + random() % most_bytes, '\0');
    for (char& byte : input) byte = static_cast<char>(random());
    target(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
  }
}

TEST(Mutation, MessagesThatWereChangedNeverCrashTheCodec) {
  std::vector<std::string> seeds;
  for (const Message& message : golden_messages())
    seeds.push_back(static_cast<char>(message.frames.size()) + encode(message));
  run_mutants(seeds, &fuzz_codec, true);
}

TEST(Mutation, BusFilesThatWereChangedAreReadOrRefused) {
  const std::string good =
      R"({"endpoint": "ipc:///tmp/x/s", "network_endpoint": "tcp://10.0.0.1:4711",)"
      R"( "public_key": "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",)"
      R"( "secret_key": "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs", "socket_folder": "/tmp/x", "host": "node1",)"
      R"( "boot_id": "0b8e", "incarnation": 18364758544493064720, "pid": 4242, "python": "3.11",)"
      R"( "self_started": true, "version": "1", "more": {"deep": [1, 2.5e3, null]}})";
  run_mutants({good, "{\"endpoint\": [[[[[[", "[]", "\"text\"", "{\"pid\": -1}"}, &fuzz_bus_file, false);
}

TEST(Mutation, AnyMessagesOfAnyPeersInAnyOrderLeaveTheSchedulersTablesInAgreement) {
  run_drawn(&fuzz_scheduler, 1500, 4000);
}

TEST(Mutation, AnyMessagesAndSlotsInAnyOrderLeaveTheWorkersTablesInAgreement) {
  run_drawn(&fuzz_worker, 1500, 4000);
}

TEST(Mutation, AnyAnswersInAnyOrderLeaveTheClientsCallsInAgreement) { run_drawn(&fuzz_client, 600, 1500); }

TEST(Mutation, PacketsOverMpiThatWereChangedAreReadOrRefused) {
  const Frame small(std::string("small")), large(std::string(kInlineBytes + 1, 'l'));
  run_mutants({write_packet({PacketKind::kConnect, 1, 1, 1}, {small}),
               write_packet({PacketKind::kMessage, 0, 2, 3}, {small, large, Frame()}),
               write_packet({PacketKind::kClose, 1, 3, 0}, {}), "mpi://12/scheduler"},
              &fuzz_mpi, false);
}

TEST(Mutation, TextsOfCommandLinesThatWereChangedAreReadOrRefused) {
  std::vector<std::string> seeds;
  const char* texts[] = {"1.5",    "8GiB", "0,2|a, b", "licence=2",       "0.5x", "1@0.5x:3", "20ms:2",
                         "0@1.5s", "1-20", "nan",      "w\xc3\xa9\x1b[2J"};
  for (const char* text : texts) seeds.push_back(static_cast<char>(seeds.size()) + std::string(text));
  run_mutants(seeds, &fuzz_text, false);
}

TEST(Mutation, PagesThatWereChangedNeverCrashTheirReader) {
  PageBuilder builder;
  std::vector<std::string> seeds;
  const auto add = [&](const std::string& item) { builder.add(std::as_bytes(std::span(item))); };
  add(std::string("\x01", 1));
  add("\x05some text");
  add(std::string("\x03\x01\x00\x00\x00\x00\x00\x00\x00", 9));
  seeds.emplace_back(builder.finish().view());
  add("\x05single");
  seeds.emplace_back(builder.finish().view());
  seeds.emplace_back(make_int_range_page(-5, 3, 1000).view());
  const DeathReport death{11, 0, "node1", 4242, 99, "segmentation fault"};
  const std::string lost = make_lost_item(LostCode::kPoisoned, 7, death, "detail");
  seeds.push_back(lost);
  seeds.emplace_back(make_single_page(std::as_bytes(std::span(lost)), PageKind::kFold).view());
  run_mutants(seeds, &fuzz_page, false);
}

}  // namespace
}  // namespace betterbox
