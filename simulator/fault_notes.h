// Notes for people in fault runs: made only where somebody wants them.
#pragma once

#include <cstdio>
#include <sstream>

#include "simulator/fault_world.h"

namespace betterbox::sim {

template <class... Parts> void FaultWorld::note(const Parts&... parts) {
  if (options_.log == nullptr) return;
  std::ostringstream text;
  char time[32];
  std::snprintf(time, sizeof time, "%12.6f  ", 1e-9 * static_cast<double>(now_));
  text << time;
  (text << ... << parts);
  options_.log->push_back(text.str());
  constexpr std::size_t kTail = 60;
  if (options_.log->size() > kTail) options_.log->pop_front();
}

}  // namespace betterbox::sim
