#include "race_check.h"

#include <algorithm>
#include <array>

#include "code_place.h"
#include "cuda_runtime.h"
#include "shadow.h"

namespace qlora::emulation {

namespace race_check {

namespace {

struct Checker {
    Shadow shadow;
    Moment now;  // launch, block and epoch of the block that runs
    const char* arguments = nullptr;
    std::size_t argument_bytes = 0;
    std::vector<uint32_t> warp_time;  // __syncwarps of a warp so far, from 1
    /// known[t][lane]: accesses of that lane of t's warp with a stamp up to this went before all that t does
    /// now.
    std::vector<std::array<uint32_t, kWarpSize>> known;
    bool inside = false;  // the checker's own code may be instrumented copies of templates
};

Checker& checker() {
    static Checker* const instance = new Checker;
    return *instance;
}

/// A launch argument, a grid variable, or something on the thread's own stack.
bool is_private(const Thread& thread, const char* address) {
    const Checker& self = checker();
    if (thread.fiber.owns(address)) return true;
    if (address >= self.arguments && address < self.arguments + self.argument_bytes) return true;
    const auto within = [address](const auto& variable) {
        const char* begin = reinterpret_cast<const char*>(&variable);
        return address >= begin && address < begin + sizeof variable;
    };
    return within(threadIdx) || within(blockIdx) || within(blockDim) || within(gridDim);
}

/// Whether an access of this block and launch by one thread went before what `thread` does now.
bool is_before(const Moment& then, const Thread& thread) {
    const Checker& self = checker();
    if (then.epoch != self.now.epoch || then.thread == thread.number) return true;
    if (then.thread / kWarpSize != thread.number / kWarpSize) return false;
    return self.known[static_cast<std::size_t>(thread.number)][then.thread % kWarpSize] >= then.stamp;
}

/// What one access means for one byte; `text` says the fault, if any.
struct Verdict {
    FaultKind kind = FaultKind::kRace;
    const Moment* other = nullptr;
    const char* text = nullptr;
};

Verdict check_against_write(const Write& write, const Thread& thread, bool atomic) {
    const Checker& self = checker();
    if (write.launch != self.now.launch || (atomic && write.atomic)) return {};
    if (write.block != self.now.block || write.several_blocks)
        return {FaultKind::kBlockRace, &write, "written"};
    if (!is_before(write, thread)) return {FaultKind::kRace, &write, "written"};
    if (write.several_threads && write.epoch == self.now.epoch) return {FaultKind::kRace, &write, "written"};
    return {};
}

Verdict check_against_reads(const Reads& reads, const Thread& thread) {
    const Checker& self = checker();
    if (reads.launch != self.now.launch) return {};
    if (reads.block != self.now.block || reads.several_blocks) return {FaultKind::kBlockRace, &reads, "read"};
    if (reads.epoch != self.now.epoch) return {};
    if (reads.several_warps || reads.thread / kWarpSize != thread.number / kWarpSize) {
        return {FaultKind::kRace, &reads, "read"};
    }
    const auto& known = self.known[static_cast<std::size_t>(thread.number)];
    for (int lane = 0; lane < kWarpSize; ++lane) {
        if ((reads.lanes >> lane & 1) && lane != thread.number % kWarpSize &&
            known[static_cast<std::size_t>(lane)] < reads.stamp) {
            return {FaultKind::kRace, &reads, "read"};
        }
    }
    return {};
}

void note_read(Reads& reads, const Thread& thread, const Moment& now) {
    const uint32_t lane = 1u << (thread.number % kWarpSize);
    Reads next;
    static_cast<Moment&>(next) = now;
    next.lanes = lane;
    if (reads.launch == now.launch) next.several_blocks = reads.several_blocks || reads.block != now.block;
    if (reads.launch == now.launch && reads.block == now.block && reads.epoch == now.epoch) {
        next.several_warps = reads.several_warps || reads.thread / kWarpSize != thread.number / kWarpSize;
        const auto& known = checker().known[static_cast<std::size_t>(thread.number)];
        for (int other = 0; other < kWarpSize; ++other) {
            if (known[static_cast<std::size_t>(other)] < reads.stamp) next.lanes |= reads.lanes & 1u << other;
        }
    }
    reads = next;
}

void note_write(Write& write, const Thread& thread, const Moment& now, bool atomic) {
    Write next;
    static_cast<Moment&>(next) = now;
    next.atomic = atomic;
    if (atomic && write.atomic && write.launch == now.launch) {
        next.several_blocks = write.several_blocks || write.block != now.block;
        const bool same_epoch = write.block == now.block && write.epoch == now.epoch;
        next.several_threads = same_epoch && (write.several_threads || write.thread != thread.number);
    }
    write = next;
}

std::string describe_access(const Moment& moment) {
    return moment.site.file != nullptr ? describe(moment.site) : describe_code(moment.code);
}

enum class Kind : uint8_t { kRead, kWrite, kAtomic };

/// The first fault of an access to one byte; an empty text if there is none.
std::pair<FaultKind, std::string> judge(const char* address, Kind kind, const Thread& thread,
                                        const Moment& now) {
    Checker& self = checker();
    const Place place = self.shadow.find(address);
    const bool writes = kind != Kind::kRead;
    if (place.space == Space::kNone || (place.space == Space::kConstant && writes)) {
        return {FaultKind::kOutOfBounds, writes ? "writes outside every buffer of the launch"
                                                : "reads outside every buffer of the launch"};
    }
    if (place.space == Space::kConstant) return {};
    if (writes && !place.writable) return {FaultKind::kReadOnly, "writes to a buffer that is input"};
    Cell& cell = *place.cell;
    const bool own_write = cell.write.launch == now.launch && cell.write.block == now.block;
    if (place.space == Space::kShared) {
        // What other blocks did to it is gone.
        if (!own_write) cell.write = {};
        if (cell.reads.launch != now.launch || cell.reads.block != now.block) cell.reads = {};
        if (!own_write && kind != Kind::kWrite) {
            return {FaultKind::kUninitializedShared, "reads shared memory that nobody wrote in this block"};
        }
    }
    Verdict verdict = check_against_write(cell.write, thread, kind == Kind::kAtomic);
    if (verdict.text == nullptr && writes) verdict = check_against_reads(cell.reads, thread);
    if (verdict.text != nullptr) {
        const bool blocks = verdict.kind == FaultKind::kBlockRace;
        return {verdict.kind, std::string(writes ? "writes" : "reads") + " what thread " +
                                  std::to_string(verdict.other->thread) +
                                  (blocks ? " of another block has " : " has ") + verdict.text + " " +
                                  describe_access(*verdict.other) +
                                  (blocks ? "; nothing orders two blocks" : "; no barrier lies between")};
    }
    if (kind == Kind::kRead) {
        note_read(cell.reads, thread, now);
    } else {
        note_write(cell.write, thread, now, kind == Kind::kAtomic);
    }
    return {};
}

void access(const void* begin, std::size_t bytes, Kind kind, const void* code, Site site = {}) {
    Thread* thread = running_thread();
    Checker& self = checker();
    if (thread == nullptr || self.inside) return;
    self.inside = true;
    Moment now = self.now;
    now.thread = static_cast<uint16_t>(thread->number);
    now.stamp = self.warp_time[static_cast<std::size_t>(thread->number / kWarpSize)];
    now.code = code;
    now.site = site;
    const char* address = static_cast<const char*>(begin);
    for (std::size_t i = 0; i < bytes; ++i) {
        if (is_private(*thread, address + i)) continue;
        auto [fault, text] = judge(address + i, kind, *thread, now);
        if (text.empty()) continue;
        text += ", " + describe_access(now);
        self.inside = false;
        fail_without_unwinding(fault, text);
    }
    self.inside = false;
}

}  // namespace

void launch_started(const void* arguments, std::size_t argument_bytes) {
    Checker& self = checker();
    ++self.now.launch;
    self.arguments = static_cast<const char*>(arguments);
    self.argument_bytes = argument_bytes;
}

void block_started(const Block& block) {
    Checker& self = checker();
    ++self.now.block;
    self.now.epoch = 0;
    self.warp_time.assign(block.warps.size(), 1);
    self.known.assign(block.threads.size(), {});
}

void barrier_passed() {
    ++checker().now.epoch;
}

void warp_synced(int warp, unsigned mask) {
    Checker& self = checker();
    const uint32_t time = self.warp_time[static_cast<std::size_t>(warp)]++;
    std::array<uint32_t, kWarpSize> joint{};
    const auto for_each_lane = [&](auto action) {
        for (int lane = 0; lane < kWarpSize; ++lane) {
            if (mask >> lane & 1) action(self.known[static_cast<std::size_t>(warp * kWarpSize + lane)], lane);
        }
    };
    for_each_lane([&](const auto& known, int lane) {
        for (std::size_t i = 0; i < kWarpSize; ++i) joint[i] = std::max(joint[i], known[i]);
        joint[static_cast<std::size_t>(lane)] = time;
    });
    for_each_lane([&](auto& known, int) { known = joint; });
}

}  // namespace race_check

void atomic_access(void* address, std::size_t bytes, Site site) {
    race_check::access(address, bytes, race_check::Kind::kAtomic, nullptr, site);
}

bool checks_races() {
    return true;
}

RegisteredBuffer::RegisteredBuffer(const void* begin, std::size_t bytes, Access access) : begin_(begin) {
    race_check::checker().shadow.add_buffer(begin, bytes, access == Access::kReadWrite);
}

RegisteredBuffer::~RegisteredBuffer() {
    race_check::checker().shadow.remove_buffer(begin_);
}

}  // namespace qlora::emulation

// What the compiler's thread-sanitizer instrumentation calls at every load and store of the kernel files; the
// sanitizer's own runtime is not linked.
#define QLORA_HOOKS(bytes)                                                                               \
    void __tsan_read##bytes(void* address) {                                                             \
        qlora::emulation::race_check::access(address, bytes, qlora::emulation::race_check::Kind::kRead,  \
                                             __builtin_return_address(0));                               \
    }                                                                                                    \
    void __tsan_write##bytes(void* address) {                                                            \
        qlora::emulation::race_check::access(address, bytes, qlora::emulation::race_check::Kind::kWrite, \
                                             __builtin_return_address(0));                               \
    }                                                                                                    \
    void __tsan_unaligned_read##bytes(void* address) {                                                   \
        qlora::emulation::race_check::access(address, bytes, qlora::emulation::race_check::Kind::kRead,  \
                                             __builtin_return_address(0));                               \
    }                                                                                                    \
    void __tsan_unaligned_write##bytes(void* address) {                                                  \
        qlora::emulation::race_check::access(address, bytes, qlora::emulation::race_check::Kind::kWrite, \
                                             __builtin_return_address(0));                               \
    }

extern "C" {
QLORA_HOOKS(1)
QLORA_HOOKS(2)
QLORA_HOOKS(4)
QLORA_HOOKS(8)
QLORA_HOOKS(16)
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_read_range(void* address, std::size_t bytes) {
    qlora::emulation::race_check::access(address, bytes, qlora::emulation::race_check::Kind::kRead,
                                         __builtin_return_address(0));
}
void __tsan_write_range(void* address, std::size_t bytes) {
    qlora::emulation::race_check::access(address, bytes, qlora::emulation::race_check::Kind::kWrite,
                                         __builtin_return_address(0));
}
}
