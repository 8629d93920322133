#include "qlora/core/available_memory.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "qlora/core/control_groups.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

std::int64_t left_on_machine(const fs::path& root) {
    std::ifstream info(root / "proc/meminfo");
    std::string name, unit;
    for (std::int64_t value = 0; info >> name >> value; std::getline(info, unit)) {
        if (name == "MemAvailable:") return value * 1024;
    }
    return 0;
}

}  // namespace

std::int64_t available_memory(const fs::path& root) {
    std::int64_t available = left_on_machine(root);
    if (const auto left = read_control_groups(root).memory) available = std::min(available, *left);
    rlimit address_space{};
    std::ifstream pages(root / "proc/self/statm");
    std::int64_t used_pages = 0;
    if (getrlimit(RLIMIT_AS, &address_space) == 0 && address_space.rlim_cur != RLIM_INFINITY &&
        pages >> used_pages) {
        available = std::min(available, static_cast<std::int64_t>(address_space.rlim_cur) -
                                            used_pages * sysconf(_SC_PAGESIZE));
    }
    return std::max<std::int64_t>(0, available);
}

}  // namespace qlora
