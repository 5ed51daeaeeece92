// CPU features that both the processor and the operating system offer.
#pragma once

#include <string>
#include <vector>

namespace headrace {

// Names as in /proc/cpuinfo, in a fixed order. Empty on architectures other than x86-64.
std::vector<std::string> cpu_features();

}  // namespace headrace
