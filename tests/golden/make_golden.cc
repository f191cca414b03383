// Writes golden vectors that do not exist yet: `make_golden FOLDER`. Those that exist are never touched.
#include <filesystem>
#include <fstream>
#include <iostream>

#include "tests/golden/samples.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: make_golden FOLDER\n";
    return 2;
  }
  for (const betterbox::Message& message : betterbox::golden_messages()) {
    const auto path = std::filesystem::path(argv[1]) / betterbox::golden_file_name(message);
    if (std::filesystem::exists(path)) continue;
    std::ofstream(path) << betterbox::golden_text(message);
    std::cout << path.string() << "\n";
  }
}
