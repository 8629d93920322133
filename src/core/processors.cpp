#include "qlora/core/processors.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>
#include <string>
#include <thread>

#include "qlora/core/control_groups.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

constexpr const char* kProcessors = "sys/devices/system/cpu";
/// A list is never believed to name more: the kernel's own limit is 8192.
constexpr std::int64_t kMostProcessors = 1 << 16;

/// The kernel's notation of a set: "0-3,8,10-11".
std::set<std::int64_t> parse_list(const std::string& text) {
    std::set<std::int64_t> out;
    std::istringstream ranges(text);
    for (std::string range; std::getline(ranges, range, ',');) {
        std::istringstream in(range);
        std::int64_t first = 0, last = 0;
        char dash = 0;
        if (!(in >> first)) continue;
        if (!(in >> dash >> last)) last = first;
        for (std::int64_t i = first; i <= std::min(last, kMostProcessors); ++i) out.insert(i);
    }
    return out;
}

std::string first_line(const fs::path& file) {
    std::ifstream in(file);
    std::string line;
    std::getline(in, line);
    return line;
}

std::string affinity_list(const fs::path& root) {
    constexpr std::string_view kName = "Cpus_allowed_list:";
    std::ifstream status(root / "proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with(kName)) return line.substr(kName.size());
    }
    return {};
}

bool is_set(int resource) {
    rlimit limit{};
    return getrlimit(static_cast<__rlimit_resource_t>(resource), &limit) == 0 &&
           limit.rlim_cur != RLIM_INFINITY;
}

/// All threads of the machine, of all users: the number after the slash, as in "0.20 0.18 0.12 1/80 11206".
std::int64_t threads_of_machine(const fs::path& root) {
    const std::string line = first_line(root / "proc/loadavg");
    const std::size_t slash = line.find('/');
    return slash == std::string::npos ? 0 : std::strtoll(line.c_str() + slash + 1, nullptr, 10);
}

}  // namespace

std::vector<std::int64_t> allowed_processors(const fs::path& root) {
    const std::set<std::int64_t> allowed = parse_list(affinity_list(root));
    const std::set<std::int64_t> online = parse_list(first_line(root / kProcessors / "online"));
    std::vector<std::int64_t> out;
    for (const std::int64_t processor : allowed) {
        if (online.empty() || online.contains(processor)) out.push_back(processor);
    }
    if (out.empty()) {
        for (unsigned i = 0; i < std::max(1U, std::thread::hardware_concurrency()); ++i) out.push_back(i);
    }
    return out;
}

std::int64_t physical_cores(const std::vector<std::int64_t>& processors, const fs::path& root) {
    std::set<std::string> cores;
    for (const std::int64_t processor : processors) {
        const std::string name = "cpu" + std::to_string(processor);
        const std::string siblings = first_line(root / kProcessors / name / "topology/thread_siblings_list");
        cores.insert(siblings.empty() ? name : siblings);
    }
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(cores.size()));
}

std::int64_t useful_threads(const std::vector<std::int64_t>& processors, const fs::path& root) {
    const std::int64_t cores = physical_cores(processors, root);
    const std::optional<double> quota = read_control_groups(root).processors;
    if (!quota || *quota >= static_cast<double>(cores)) return cores;
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(*quota)));
}

bool threads_may_be_refused(std::int64_t count, const fs::path& root) {
    if (is_set(RLIMIT_AS) || is_set(RLIMIT_DATA)) return true;
    if (const auto left = read_control_groups(root).tasks; left && *left < count) return true;
    // No user has more threads than the machine.
    const std::int64_t wanted = threads_of_machine(root) + count;
    rlimit own{};
    const bool is_limited = getrlimit(RLIMIT_NPROC, &own) == 0 && own.rlim_cur != RLIM_INFINITY;
    if (is_limited && static_cast<rlim_t>(wanted) > own.rlim_cur) return true;
    std::int64_t most = std::numeric_limits<std::int64_t>::max();
    for (const char* file : {"threads-max", "pid_max"}) {
        std::ifstream in(root / "proc/sys/kernel" / file);
        if (std::int64_t value = 0; in >> value) most = std::min(most, value);
    }
    return wanted > most;
}

}  // namespace qlora
