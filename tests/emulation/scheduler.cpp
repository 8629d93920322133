#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <random>

#include "block_state.h"
#include "cuda_runtime.h"
#include "race_check.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace qlora::emulation {

namespace {

constexpr int kMaxThreads = 1024;

struct Scheduler {
    Schedule schedule;
    std::minstd_rand random;
    std::vector<std::unique_ptr<Thread>> pool;  // reused by every launch
    Block block;
    Thread* running = nullptr;
    std::vector<Thread*> stack;  // greedy: the next to run is last
    std::optional<Fault> fault;
    void (*body)(void*) = nullptr;  // of the launch
    void* arguments = nullptr;
    int64_t finished_launches = 0;
    int64_t vector_accesses = 0;
};

Scheduler& scheduler() {
    static Scheduler* const instance = new Scheduler;  // fibers may outlive every static object
    return *instance;
}

template <class T>
void put_in_order(std::vector<T>& items, const Schedule& schedule, std::minstd_rand& random) {
    if (schedule.order == Order::kReverse) std::reverse(items.begin(), items.end());
    if (schedule.order == Order::kShuffled) std::shuffle(items.begin(), items.end(), random);
}

unsigned long long count(const Size3& size) {
    return static_cast<unsigned long long>(size.x) * size.y * size.z;
}

void check_limits(const std::string& kernel, const LaunchShape& shape) {
    const auto refuse = [&kernel](const std::string& what) {
        throw Fault(FaultKind::kLaunchLimits, kernel + ": " + what);
    };
    const Size3& grid = shape.grid;
    const Size3& block = shape.block;
    if (count(block) < 1 || count(block) > kMaxThreads || block.z > 64) {
        refuse("a block of " + std::to_string(count(block)) + " threads; 1 to 1024 are possible");
    }
    if (count(grid) < 1 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
        refuse("a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
               std::to_string(grid.z) + " blocks");
    }
}

/// What a thread's fiber runs.
void run_body(void* launch) {
    Scheduler& self = *static_cast<Scheduler*>(launch);
    try {
        self.body(self.arguments);
    } catch (const Fault& fault) {
        self.fault = fault;
    }
}

void start_block(Block& block) {
    Scheduler& self = scheduler();
    const Size3 size = block.shape.block;
    const int threads = static_cast<int>(count(size));
    block.threads.clear();
    block.warps.assign(static_cast<std::size_t>((threads + kWarpSize - 1) / kWarpSize), Warp{});
    block.at_barrier = 0;
    block.returned = 0;
    while (self.pool.size() < static_cast<std::size_t>(threads))
        self.pool.push_back(std::make_unique<Thread>());
    for (int number = 0; number < threads; ++number) {
        Thread& thread = *self.pool[static_cast<std::size_t>(number)];
        const unsigned linear = static_cast<unsigned>(number);
        thread.number = number;
        thread.index = {linear % size.x, linear / size.x % size.y, linear / size.x / size.y};
        thread.state = ThreadState::kReady;
        thread.vector_stores = 0;
        thread.fiber.begin(run_body, &self);
        block.threads.push_back(&thread);
        block.warps[linear / kWarpSize].existing |= 1u << (linear % kWarpSize);
    }
    blockIdx = {block.index.x, block.index.y, block.index.z};
    race_check::block_started(block);
}

void run_on(Thread& thread) {
    Scheduler& self = scheduler();
    threadIdx = {thread.index.x, thread.index.y, thread.index.z};
    self.running = &thread;
    thread.fiber.resume();
    self.running = nullptr;
    if (self.fault) throw *self.fault;
    if (!thread.fiber.finished()) return;
    thread.state = ThreadState::kReturned;
    ++self.block.returned;
    self.block.warps[static_cast<std::size_t>(thread.number / kWarpSize)].returned |=
        1u << (thread.number % kWarpSize);
}

void run_rounds(Block& block) {
    Scheduler& self = scheduler();
    const std::size_t threads = block.threads.size();
    std::vector<Thread*> order = block.threads;
    put_in_order(order, self.schedule, self.random);
    while (static_cast<std::size_t>(block.returned) < threads) {
        bool progress = false;
        for (Thread* thread : order) {
            if (thread->state != ThreadState::kReady) continue;
            progress = true;
            run_on(*thread);
        }
        if (!progress) throw diagnose_stuck(block);
        if (self.schedule.order == Order::kShuffled) std::shuffle(order.begin(), order.end(), self.random);
    }
}

void run_greedy(Block& block) {
    Scheduler& self = scheduler();
    self.stack.clear();
    release(block.threads);
    while (!self.stack.empty()) {
        Thread* thread = self.stack.back();
        self.stack.pop_back();
        run_on(*thread);
    }
    if (static_cast<std::size_t>(block.returned) < block.threads.size()) throw diagnose_stuck(block);
}

}  // namespace

std::vector<Schedule> all_schedules() {
    std::vector<Schedule> schedules;
    for (Discipline discipline : {Discipline::kRounds, Discipline::kGreedy}) {
        schedules.push_back({discipline, Order::kForward, 0});
        schedules.push_back({discipline, Order::kReverse, 0});
        schedules.push_back({discipline, Order::kShuffled, 1});
        schedules.push_back({discipline, Order::kShuffled, 2});
    }
    return schedules;
}

std::string to_string(const Schedule& schedule) {
    const char* const orders[] = {"forward", "reverse", "shuffled"};
    std::string name = schedule.discipline == Discipline::kRounds ? "rounds, " : "greedy, ";
    name += orders[static_cast<int>(schedule.order)];
    return schedule.order == Order::kShuffled ? name + " by seed " + std::to_string(schedule.seed) : name;
}

void set_schedule(const Schedule& schedule) {
    scheduler().schedule = schedule;
}

int64_t finished_launches() {
    return scheduler().finished_launches;
}

int64_t vector_accesses() {
    return scheduler().vector_accesses;
}

Block& running_block() {
    return scheduler().block;
}

Thread* running_thread() {
    return scheduler().running;
}

void wait(Thread& thread, ThreadState state, Site site) {
    thread.state = state;
    thread.site = site;
    thread.fiber.suspend();
}

void release(const std::vector<Thread*>& threads) {
    Scheduler& self = scheduler();
    for (Thread* thread : threads) thread->state = ThreadState::kReady;
    if (self.schedule.discipline == Discipline::kRounds) return;  // the next round finds them
    std::vector<Thread*> order = threads;
    put_in_order(order, self.schedule, self.random);
    self.stack.insert(self.stack.end(), order.rbegin(), order.rend());
}

namespace {
Fault fault_of(const Scheduler& self, FaultKind kind, const std::string& message) {
    const std::string thread = "thread " + std::to_string(self.running->number);
    return {kind, describe(self.block, thread + ": " + message)};
}
}  // namespace

void fail(FaultKind kind, const std::string& message) {
    throw fault_of(scheduler(), kind, message);
}

void fail_without_unwinding(FaultKind kind, const std::string& message) {
    Scheduler& self = scheduler();
    self.fault = fault_of(self, kind, message);
    self.running->fiber.abandon();
}

void run_grid(const char* signature, const LaunchShape& shape, void (*body)(void*), void* arguments,
              std::size_t argument_bytes) {
    Scheduler& self = scheduler();
    Block& block = self.block;
    block.kernel = kernel_name(signature);
    check_limits(block.kernel, shape);
    block.shape = shape;
    gridDim = {shape.grid.x, shape.grid.y, shape.grid.z};
    blockDim = {shape.block.x, shape.block.y, shape.block.z};
    self.fault.reset();
    self.body = body;
    self.arguments = arguments;
    self.random.seed(self.schedule.seed + 1);
    race_check::launch_started(arguments, argument_bytes);
    std::vector<unsigned long long> order(count(shape.grid));
    std::iota(order.begin(), order.end(), 0ULL);
    put_in_order(order, self.schedule, self.random);
    for (unsigned long long number : order) {
        block.index = {static_cast<unsigned>(number % shape.grid.x),
                       static_cast<unsigned>(number / shape.grid.x % shape.grid.y),
                       static_cast<unsigned>(number / shape.grid.x / shape.grid.y)};
        start_block(block);
        self.schedule.discipline == Discipline::kRounds ? run_rounds(block) : run_greedy(block);
    }
    ++self.finished_launches;
}

void block_barrier(Site site) {
    Block& block = running_block();
    Thread& thread = *running_thread();
    if (++block.at_barrier == static_cast<int>(block.threads.size())) {
        for (const Thread* other : block.threads) {
            if (other == &thread || (other->site.line == site.line && other->site.file == site.file))
                continue;
            fail(FaultKind::kMixedBarriers, "waits at the barrier " + describe(site) + " while thread " +
                                                std::to_string(other->number) + " waits at the one " +
                                                describe(other->site));
        }
        block.at_barrier = 0;
        race_check::barrier_passed();
        release(block.threads);
        thread.fiber.suspend();
        return;
    }
    wait(thread, ThreadState::kAtBarrier, site);
}

void vector_access(const void* address, std::size_t bytes, Site site) {
    ++scheduler().vector_accesses;
    check_alignment(address, bytes, site);
}

void check_alignment(const void* address, std::size_t alignment, Site site) {
    if (reinterpret_cast<uintptr_t>(address) % alignment == 0) return;
    fail(FaultKind::kMisaligned, "an access of " + std::to_string(alignment) +
                                     " bytes at an address that is no multiple of it " + describe(site));
}

}  // namespace qlora::emulation
