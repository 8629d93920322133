#include <algorithm>

#include "block_state.h"
#include "race_check.h"

namespace qlora::emulation {

namespace {

/// The lane a shuffle reads; one beyond its segment means the lane's own value.
int source_lane(const WarpRequest& request, int lane) {
    const int first = lane / request.width * request.width;
    const int last = first + request.width - 1;
    switch (request.operation) {
        case WarpOperation::kShuffle:
            return first + (request.operand & (request.width - 1));
        case WarpOperation::kShuffleUp:
            return lane - request.operand < first ? lane : lane - request.operand;
        case WarpOperation::kShuffleDown:
            return lane + request.operand > last ? lane : lane + request.operand;
        default:
            return (lane ^ request.operand) > last ? lane : lane ^ request.operand;
    }
}

uint64_t reduce(WarpOperation operation, bool is_signed, uint64_t a, uint64_t b) {
    const auto less = [is_signed](uint64_t x, uint64_t y) {
        return is_signed ? static_cast<int32_t>(x) < static_cast<int32_t>(y) : x < y;
    };
    switch (operation) {
        case WarpOperation::kBallot:
        case WarpOperation::kAny:
        case WarpOperation::kReduceOr:
            return a | b;
        case WarpOperation::kAll:
        case WarpOperation::kReduceAnd:
            return a & b;
        case WarpOperation::kReduceXor:
            return a ^ b;
        case WarpOperation::kReduceMin:
            return less(b, a) ? b : a;
        case WarpOperation::kReduceMax:
            return less(a, b) ? b : a;
        default:
            return static_cast<uint32_t>(a + b);
    }
}

bool is_shuffle(WarpOperation operation) {
    return operation >= WarpOperation::kShuffle && operation <= WarpOperation::kShuffleXor;
}

std::string name(unsigned mask) {
    constexpr char kDigits[] = "0123456789abcdef";
    std::string text = "0x";
    for (int shift = 28; shift >= 0; shift -= 4) text += kDigits[mask >> shift & 0xf];
    return text;
}

/// All lanes of the mask have come: gives each its result.
void complete(Block& block, int warp, unsigned mask, Thread& last) {
    std::vector<Thread*> lanes;
    for (int lane = 0; lane < kWarpSize; ++lane) {
        if (mask >> lane & 1)
            lanes.push_back(block.threads[static_cast<std::size_t>(warp * kWarpSize + lane)]);
    }
    for (const Thread* other : lanes) {
        if (other->request.operation == last.request.operation && other->site.line == last.site.line &&
            other->site.file == last.site.file) {
            continue;
        }
        fail(FaultKind::kMixedWarpOperations, "meets lane " + std::to_string(other->number % kWarpSize) +
                                                  " of its mask at different warp operations, " +
                                                  describe(last.site) + " and " + describe(other->site));
    }
    const WarpOperation operation = last.request.operation;
    if (operation == WarpOperation::kSync) {
        race_check::warp_synced(warp, mask);
    } else if (is_shuffle(operation)) {
        for (Thread* thread : lanes) {
            const int source = source_lane(thread->request, thread->number % kWarpSize);
            if (!(mask >> source & 1)) {
                fail(FaultKind::kShuffleSource, "lane " + std::to_string(thread->number % kWarpSize) +
                                                    " reads lane " + std::to_string(source) +
                                                    ", which does not take part (mask " + name(mask) + "), " +
                                                    describe(last.site));
            }
            thread->result =
                block.threads[static_cast<std::size_t>(warp * kWarpSize + source)]->request.value;
        }
    } else {
        const bool ballot = operation == WarpOperation::kBallot;
        const auto contribution = [ballot](const Thread& thread) {
            return ballot ? thread.request.value << (thread.number % kWarpSize) : thread.request.value;
        };
        uint64_t result = contribution(*lanes.front());
        for (std::size_t i = 1; i < lanes.size(); ++i) {
            result = reduce(operation, last.request.operand == 1, result, contribution(*lanes[i]));
        }
        for (Thread* thread : lanes) thread->result = result;
    }
    block.warps[static_cast<std::size_t>(warp)].waiting &= ~mask;
    release(lanes);
}

}  // namespace

uint64_t warp_operation(WarpOperation operation, unsigned mask, uint64_t value, int operand, int width,
                        Site site) {
    Block& block = running_block();
    Thread& thread = *running_thread();
    const int warp_number = thread.number / kWarpSize;
    const int lane = thread.number % kWarpSize;
    Warp& warp = block.warps[static_cast<std::size_t>(warp_number)];
    if (!(mask >> lane & 1)) {
        fail(FaultKind::kCallerNotInMask, "lane " + std::to_string(lane) + " is not in its own mask " +
                                              name(mask) + ", " + describe(site));
    }
    if ((mask & ~warp.existing) != 0) {
        fail(FaultKind::kMissingLane, "the mask " + name(mask) +
                                          " names lanes that the block does not have, it has " +
                                          name(warp.existing) + ", " + describe(site));
    }
    if ((mask & warp.returned) != 0) {
        fail(FaultKind::kLaneReturned, "the mask " + name(mask) + " names lanes that have returned, " +
                                           name(warp.returned) + ", " + describe(site));
    }
    thread.request = {operation, mask, value, operand, width};
    thread.state = ThreadState::kAtWarpOperation;
    thread.site = site;
    warp.waiting |= 1u << lane;
    if ((mask & ~warp.waiting) == 0) {
        bool all_here = true;
        for (int other = 0; other < kWarpSize; ++other) {
            if (!(mask >> other & 1)) continue;
            const Thread& there = *block.threads[static_cast<std::size_t>(warp_number * kWarpSize + other)];
            all_here = all_here && there.request.mask == mask;
        }
        if (all_here) complete(block, warp_number, mask, thread);
    }
    thread.fiber.suspend();
    return thread.result;
}

}  // namespace qlora::emulation
