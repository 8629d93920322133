#include "qlora/core/control_groups.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace qlora {
namespace {

namespace fs = std::filesystem;

/// Version 1 writes "no limit" as the largest multiple of a page.
constexpr std::int64_t kUnlimited = std::int64_t{1} << 60;

/// A mounted hierarchy of groups.
struct Mount {
    std::string root;   ///< the group that stands at the mount point
    std::string point;  ///< where it is mounted
    bool is_version2 = false;
    std::string controllers;  ///< of version 1: ",memory," between other options
};

template <class T>
void take_least(std::optional<T>& least, T value) {
    least = least ? std::min(*least, value) : value;
}

fs::path below(const fs::path& root, const std::string& absolute) {
    return root / fs::path(absolute).relative_path();
}

/// Nothing for "max", a missing file, or a number that stands for no limit.
std::optional<std::int64_t> read_number(const fs::path& file) {
    std::ifstream in(file);
    std::int64_t value = 0;
    if (in >> value && value >= 0 && value < kUnlimited) return value;
    return std::nullopt;
}

/// Of a file with a name and a number a line, as memory.stat.
std::optional<std::int64_t> read_entry(const fs::path& file, std::string_view wanted) {
    std::ifstream in(file);
    std::string name;
    for (std::int64_t value = 0; in >> name >> value;) {
        if (name == wanted && value >= 0 && value < kUnlimited) return value;
    }
    return std::nullopt;
}

/// mountinfo writes blanks and the like as a backslash and three octal digits.
std::string without_escapes(const std::string& text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const bool is_escape =
            text[i] == '\\' && i + 3 < text.size() && text.find_first_not_of("01234567", i + 1) > i + 3;
        if (!is_escape) {
            out += text[i];
            continue;
        }
        out += static_cast<char>(std::stoi(text.substr(i + 1, 3), nullptr, 8));
        i += 3;
    }
    return out;
}

/// A line is: number, parent, device, root, mount point, options, any number of tags, "-", type, source,
/// options of the hierarchy.
std::vector<Mount> read_mounts(const fs::path& root) {
    std::vector<Mount> mounts;
    std::ifstream in(root / "proc/self/mountinfo");
    for (std::string line; std::getline(in, line);) {
        std::istringstream words(line);
        std::string skipped, type, source, options;
        Mount mount;
        words >> skipped >> skipped >> skipped >> mount.root >> mount.point;
        while (words >> skipped && skipped != "-") {
        }
        words >> type >> source >> options;
        if (type != "cgroup" && type != "cgroup2") continue;
        mount.root = without_escapes(mount.root);
        mount.point = without_escapes(mount.point);
        mount.is_version2 = type == "cgroup2";
        mount.controllers = "," + options + ",";
        mounts.push_back(std::move(mount));
    }
    return mounts;
}

/// The group's place below the mount point; nothing when the mount does not show it.
std::optional<std::string> place_in(const Mount& mount, const std::string& group) {
    if (group.find("/..") != std::string::npos) return std::nullopt;  // outside of this namespace
    if (mount.root == "/") return group;
    if (!group.starts_with(mount.root)) return std::nullopt;
    const std::string rest = group.substr(mount.root.size());
    return rest.empty() || rest.front() == '/' ? std::optional(rest) : std::nullopt;
}

/// The folders of the group and of those around it, up to the mount point. A mount that does not show the
/// group shows, in a container, the one that holds it.
std::vector<fs::path> folders_of(const std::vector<Mount>& mounts, bool is_version2,
                                 const std::string& controller, const std::string& group,
                                 const fs::path& root) {
    const Mount* chosen = nullptr;
    std::string place;
    for (const Mount& mount : mounts) {
        if (mount.is_version2 != is_version2) continue;
        if (!is_version2 && mount.controllers.find("," + controller + ",") == std::string::npos) continue;
        const std::optional<std::string> shown = place_in(mount, group);
        if (chosen == nullptr || shown) {
            chosen = &mount;
            place = shown.value_or("");
        }
        if (shown) break;
    }
    if (chosen == nullptr) return {};
    std::vector<fs::path> folders = {below(root, chosen->point)};
    for (const fs::path& name : fs::path(place).relative_path()) {
        if (!name.empty()) folders.push_back(folders.back() / name);
    }
    return folders;
}

/// What is left below `limit`, where `cache` of what is used can be given back.
std::int64_t left_of(std::int64_t limit, std::int64_t used, std::int64_t cache) {
    return std::max<std::int64_t>(0, limit - std::max<std::int64_t>(0, used - cache));
}

void add_memory(const fs::path& folder, bool is_version2, ControlGroupLimits& limits) {
    const fs::path statistics = folder / "memory.stat";
    std::optional<std::int64_t> limit;
    const auto lower = [&](std::optional<std::int64_t> value) {
        if (value) take_least(limit, *value);
    };
    if (is_version2) {
        lower(read_number(folder / "memory.max"));
        lower(read_number(folder / "memory.high"));  // above it a process is slowed down to a crawl
    } else {
        lower(read_number(folder / "memory.limit_in_bytes"));
        lower(read_entry(statistics, "hierarchical_memory_limit"));  // knows groups that are not mounted here
    }
    const std::optional<std::int64_t> used =
        read_number(folder / (is_version2 ? "memory.current" : "memory.usage_in_bytes"));
    if (!limit || !used) return;
    // Of version 1 only the totals include the groups below, as the usage does.
    const std::string prefix = is_version2 ? "" : "total_";
    const std::int64_t cache = read_entry(statistics, prefix + "inactive_file").value_or(0) +
                               read_entry(statistics, prefix + "active_file").value_or(0);
    take_least(limits.memory, left_of(*limit, *used, cache));
}

void add_processors(const fs::path& folder, bool is_version2, ControlGroupLimits& limits) {
    std::int64_t quota = 0, period = 0;
    if (is_version2) {
        std::ifstream in(folder / "cpu.max");
        if (!(in >> quota >> period)) return;
    } else {
        quota = read_number(folder / "cpu.cfs_quota_us").value_or(0);
        period = read_number(folder / "cpu.cfs_period_us").value_or(0);
    }
    if (quota <= 0 || period <= 0) return;
    take_least(limits.processors, static_cast<double>(quota) / static_cast<double>(period));
}

void add_tasks(const fs::path& folder, ControlGroupLimits& limits) {
    const auto most = read_number(folder / "pids.max"), now = read_number(folder / "pids.current");
    if (most && now) take_least(limits.tasks, std::max<std::int64_t>(0, *most - *now));
}

}  // namespace

ControlGroupLimits read_control_groups(const fs::path& root) {
    ControlGroupLimits limits;
    const std::vector<Mount> mounts = read_mounts(root);
    std::ifstream in(root / "proc/self/cgroup");
    for (std::string line; std::getline(in, line);) {  // number:controllers:group
        const std::size_t first = line.find(':');
        const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos) continue;
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const std::string group = line.substr(second + 1);
        const bool is_version2 = controllers == ",,";
        for (const std::string controller : {"memory", "cpu", "pids"}) {
            if (!is_version2 && controllers.find("," + controller + ",") == std::string::npos) continue;
            for (const fs::path& folder : folders_of(mounts, is_version2, controller, group, root)) {
                if (controller == "memory") add_memory(folder, is_version2, limits);
                if (controller == "cpu") add_processors(folder, is_version2, limits);
                if (controller == "pids") add_tasks(folder, limits);
            }
        }
    }
    return limits;
}

}  // namespace qlora
