#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

/// A CUDA grid on the CPU, for tests: each CUDA thread is a fiber, blocks run one after another, every launch
/// is synchronous. It runs a kernel under a chosen order of threads and throws a Fault where the kernel
/// breaks CUDA's rules. This header is what tests use; kernels see cuda_runtime.h.
namespace qlora::emulation {

enum class FaultKind : uint8_t {
    kLaunchLimits,         ///< a grid or block that no card accepts
    kReturnBeforeBarrier,  ///< some threads wait at a barrier that others returned before
    kMixedBarriers,        ///< all threads wait, at different barriers
    kDeadlock,             ///< threads wait for each other
    kLaneReturned,         ///< a mask names a lane whose thread has returned
    kMissingLane,          ///< a mask names a lane that the block does not have
    kCallerNotInMask,
    kMixedWarpOperations,  ///< the lanes of one mask meet at different warp operations
    kShuffleSource,        ///< a shuffle reads a lane that does not take part
    kMisaligned,           ///< a vector access at an address that is no multiple of its size
    // The race checker alone finds these.
    kRace,                 ///< two threads of one block, nothing ordering them
    kBlockRace,            ///< two blocks of one launch
    kUninitializedShared,  ///< read of shared memory that nobody wrote in this block
    kOutOfBounds,          ///< outside every buffer of the test
    kReadOnly,             ///< write to a buffer that is input
};

/// Names kernel, block, file and line.
class Fault : public std::runtime_error {
  public:
    Fault(FaultKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
    FaultKind kind() const { return kind_; }

  private:
    FaultKind kind_;
};

/// kRounds: every thread runs to its next barrier or warp operation before any runs on. kGreedy: threads just
/// released run first, so that one warp runs as far ahead of the others as it can.
enum class Discipline : uint8_t { kRounds, kGreedy };
enum class Order : uint8_t { kForward, kReverse, kShuffled };

struct Schedule {
    Discipline discipline = Discipline::kRounds;
    Order order = Order::kForward;  ///< of the threads in a block and of the blocks
    uint32_t seed = 0;              ///< of kShuffled
};

/// Both disciplines with forward, reverse and two shuffled orders.
std::vector<Schedule> all_schedules();
std::string to_string(const Schedule& schedule);

/// The schedule of launches to come; at first rounds, forward.
void set_schedule(const Schedule& schedule);

/// Launches that ran to their end since the program started.
int64_t finished_launches();

/// Vector loads and stores by kernels since the program started.
int64_t vector_accesses();

/// Memory is written in sectors of this many bytes; a store that fills half of one costs as much.
inline constexpr int64_t kSectorBytes = 32;

/// The vector stores of the kernels that run while it lives, one at a time.
class StoreSectors {
  public:
    StoreSectors();
    ~StoreSectors();
    StoreSectors(const StoreSectors&) = delete;
    StoreSectors& operator=(const StoreSectors&) = delete;

    /// Bytes stored.
    int64_t bytes() const { return bytes_; }
    /// Sectors that the warps' stores touched: a sector counts once for each store of a warp, whose lanes
    /// store together.
    int64_t touched() const { return static_cast<int64_t>(touched_.size()); }

    /// A thread's vector store, which is its `number`th in this block.
    void note(int64_t block, int warp, int64_t number, const void* address, std::size_t bytes);

  private:
    int64_t bytes_ = 0;
    std::set<std::tuple<int64_t, int, int64_t, uintptr_t>> touched_;
};

/// Whether the kernels of this program report their memory accesses (the race checker's build).
bool checks_races();

/// Memory that kernels may touch, known to the race checker byte by byte until the end of the scope.
class RegisteredBuffer {
  public:
    enum class Access : uint8_t { kRead, kReadWrite };
    RegisteredBuffer(const void* begin, std::size_t bytes, Access access);
    ~RegisteredBuffer();
    RegisteredBuffer(const RegisteredBuffer&) = delete;
    RegisteredBuffer& operator=(const RegisteredBuffer&) = delete;

  private:
    const void* begin_;
};

}  // namespace qlora::emulation
