#include "threads.h"

#include <ATen/Parallel.h>
#include <omp.h>

#include <cstdlib>
#include <latch>
#include <system_error>
#include <thread>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/processors.h"
#include "qlora/ops/gemm.h"

namespace qlora::cli {
namespace {

/// OpenMP ends the process where it gets no thread, and LibTorch's own pool of as many waits for ever: so all
/// of them are asked for before; their stacks are kept for those.
void try_threads(std::int64_t count, std::int64_t threads) {
    std::latch asked(1);
    std::vector<std::jthread> tried;
    struct LetGo {
        std::latch& latch;
        ~LetGo() { latch.count_down(); }
    } let_go{asked};  // before `tried` joins, whatever is thrown
    try {
        for (std::int64_t i = 0; i < count; ++i) tried.emplace_back([&asked] { asked.wait(); });
    } catch (const std::system_error&) {
        throw ResourceError(fmt::format(
            "the system gives no memory for {} threads: set model.threads lower, or raise the limit "
            "on memory or threads (ulimit -v, ulimit -u)",
            threads));
    }
}

/// OpenMP may have bound this thread to one processor (OMP_PROC_BIND, OMP_PLACES): then its places are what
/// the process may use.
std::vector<std::int64_t> processors() {
    if (omp_get_proc_bind() == omp_proc_bind_false) return allowed_processors();
    std::vector<std::int64_t> out;
    for (int place = 0; place < omp_get_num_places(); ++place) {
        std::vector<int> ids(static_cast<std::size_t>(omp_get_place_num_procs(place)));
        if (!ids.empty()) omp_get_place_proc_ids(place, ids.data());
        out.insert(out.end(), ids.begin(), ids.end());
    }
    return out.empty() ? allowed_processors() : out;
}

}  // namespace

std::int64_t set_threads(std::optional<std::int64_t> threads) {
    const bool sets = threads || std::getenv("OMP_NUM_THREADS") == nullptr;
    const std::int64_t wanted = threads ? *threads
                                : sets  ? useful_threads(processors())
                                        : at::get_num_threads();
    const std::int64_t started = 2 * wanted - 2;  // OpenMP's and LibTorch's, besides this one
    if (threads_may_be_refused(started)) try_threads(started, wanted);
    if (sets) at::set_num_threads(static_cast<int>(wanted));
    at::parallel_for(0, at::get_num_threads(), 1,
                     [](std::int64_t, std::int64_t) {});  // OpenMP makes its threads
    ops::reserve_product_buffers();
    return at::get_num_threads();
}

}  // namespace qlora::cli
