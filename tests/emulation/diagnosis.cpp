#include <algorithm>
#include <map>
#include <tuple>

#include "block_state.h"

namespace qlora::emulation {

namespace {

std::string file_name(const char* path) {
    const std::string text = path;
    return text.substr(text.find_last_of('/') + 1);
}

/// "thread 3", "threads 0 to 31", "threads 1, 5 and 30 more".
std::string name_threads(const std::vector<int>& numbers) {
    const std::size_t count = numbers.size();
    if (count == 1) return "thread " + std::to_string(numbers[0]);
    const bool run = static_cast<std::size_t>(numbers.back() - numbers.front()) + 1 == count;
    if (run) return "threads " + std::to_string(numbers.front()) + " to " + std::to_string(numbers.back());
    std::string text = "threads " + std::to_string(numbers[0]) + ", " + std::to_string(numbers[1]);
    return count == 2 ? text : text + " and " + std::to_string(count - 2) + " more";
}

}  // namespace

std::string describe(Site site) {
    return "at " + file_name(site.file) + ":" + std::to_string(site.line);
}

std::string kernel_name(const std::string& signature) {
    const std::string before = "kKernel = ";
    const std::size_t begin = signature.find(before);
    if (begin == std::string::npos) return signature;
    std::string name = signature.substr(begin + before.size());
    name.resize(std::min(name.size(), name.find_first_of(";]")));
    std::string result;
    std::size_t word = 0;  // where the current name begins in `result`
    for (std::size_t i = 0; i < name.size(); ++i) {
        if (name.compare(i, 2, "::") == 0) {
            result.resize(word);
            ++i;
            continue;
        }
        result += name[i];
        if (std::string("<, ").find(name[i]) != std::string::npos) word = result.size();
    }
    return result;
}

std::string describe(const Block& block, const std::string& message) {
    const auto name = [](const Size3& at) {
        return std::to_string(at.x) + "," + std::to_string(at.y) + "," + std::to_string(at.z);
    };
    return block.kernel + ", block (" + name(block.index) + "): " + message;
}

Fault diagnose_stuck(const Block& block) {
    // Who waits where, barriers before warp operations.
    std::map<std::tuple<bool, std::string, unsigned>, std::vector<int>> waiting;
    bool at_warp_operation = false;
    bool lane_returned = false;
    for (const Thread* thread : block.threads) {
        if (thread->state == ThreadState::kReturned) continue;
        const bool at_barrier = thread->state == ThreadState::kAtBarrier;
        const unsigned mask = at_barrier ? 0 : thread->request.mask;
        waiting[{!at_barrier, describe(thread->site), mask}].push_back(thread->number);
        at_warp_operation = at_warp_operation || !at_barrier;
        const Warp& warp = block.warps[static_cast<std::size_t>(thread->number / kWarpSize)];
        lane_returned = lane_returned || (mask & warp.returned) != 0;
    }
    std::string list;
    for (const auto& [place, numbers] : waiting) {
        const auto& [warp_operation, site, mask] = place;
        list += list.empty() ? "" : "; ";
        list +=
            name_threads(numbers) + (warp_operation ? " at the warp operation " : " at the barrier ") + site;
    }
    const std::string returned = std::to_string(block.returned) + " of " +
                                 std::to_string(block.threads.size()) + " threads have returned";
    if (lane_returned) {
        return {FaultKind::kLaneReturned,
                describe(block, "a mask names lanes that have returned; waiting are " + list)};
    }
    if (block.returned > 0 && !at_warp_operation) {
        return {FaultKind::kReturnBeforeBarrier, describe(block, returned + ", yet waiting are " + list)};
    }
    return {FaultKind::kDeadlock, describe(block, "threads wait for each other: " + list + "; " + returned)};
}

}  // namespace qlora::emulation
