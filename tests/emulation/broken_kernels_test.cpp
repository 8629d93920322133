// Every kernel of broken_kernels.cu is caught, by the means that can catch it, with its line.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "grid.h"
#include "sample_kernels.h"

namespace qlora::emulation {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kUnderAddressSanitizer = true;
#else
constexpr bool kUnderAddressSanitizer = false;
#endif

constexpr int kCount = 128;

/// Who finds the fault; a race checker's fault is looked for in its build alone.
enum class By : uint8_t {
    kGrid,              // every build
    kRaceChecker,       // nobody else
    kSchedules,         // results differ between two orders of threads; the race checker too
    kAddressSanitizer,  // nobody else
    kMemoryCheckers,    // AddressSanitizer and the race checker
};

struct Case {
    const char* kernel;
    By by;
    FaultKind kind;
};

const Case kCases[] = {
    {"return_before_barrier", By::kGrid, FaultKind::kReturnBeforeBarrier},
    {"two_barriers", By::kGrid, FaultKind::kMixedBarriers},
    {"barrier_against_shuffle", By::kGrid, FaultKind::kDeadlock},
    {"full_mask_in_half_a_warp", By::kGrid, FaultKind::kMissingLane},
    {"caller_not_in_mask", By::kGrid, FaultKind::kCallerNotInMask},
    {"shuffle_from_absent_lane", By::kGrid, FaultKind::kShuffleSource},
    {"mask_names_returned_lanes", By::kGrid, FaultKind::kLaneReturned},
    {"two_warp_operations", By::kGrid, FaultKind::kMixedWarpOperations},
    {"masks_that_differ", By::kGrid, FaultKind::kDeadlock},
    {"missing_barrier_in_tree", By::kSchedules, FaultKind::kRace},
    {"missing_barrier_before_next_turn", By::kSchedules, FaultKind::kRace},
    {"missing_syncwarp", By::kSchedules, FaultKind::kRace},
    {"shuffle_instead_of_syncwarp", By::kRaceChecker, FaultKind::kRace},
    {"syncwarp_of_the_wrong_half", By::kSchedules, FaultKind::kRace},
    {"syncwarp_between_warps", By::kSchedules, FaultKind::kRace},
    {"two_threads_one_address", By::kSchedules, FaultKind::kRace},
    {"plain_read_beside_atomics", By::kSchedules, FaultKind::kRace},
    {"two_blocks_one_sum", By::kRaceChecker, FaultKind::kBlockRace},
    {"block_reads_what_another_wrote", By::kSchedules, FaultKind::kBlockRace},
    {"block_overwrites_what_another_read", By::kSchedules, FaultKind::kBlockRace},
    {"uninitialized_shared", By::kRaceChecker, FaultKind::kUninitializedShared},
    {"shared_of_an_earlier_block", By::kRaceChecker, FaultKind::kUninitializedShared},
    {"static_shared_overrun", By::kAddressSanitizer, FaultKind::kOutOfBounds},
    {"read_behind_the_input", By::kMemoryCheckers, FaultKind::kOutOfBounds},
    {"read_before_the_input", By::kMemoryCheckers, FaultKind::kOutOfBounds},
    {"write_behind_the_output", By::kMemoryCheckers, FaultKind::kOutOfBounds},
    {"write_to_the_input", By::kRaceChecker, FaultKind::kReadOnly},
    {"misaligned_vector", By::kGrid, FaultKind::kMisaligned},
    {"too_many_threads", By::kGrid, FaultKind::kLaunchLimits},
    {"too_many_rows_of_blocks", By::kGrid, FaultKind::kLaunchLimits},
};

/// Runs a kernel on values whose sums depend on their order, in buffers of exact size; returns its output.
std::vector<float> run(const char* kernel) {
    std::vector<float> in(kCount);
    for (int i = 0; i < kCount; ++i) in[static_cast<std::size_t>(i)] = 1.0f / static_cast<float>(i + 1);
    std::vector<float> out(kCount);
    const RegisteredBuffer input(in.data(), sizeof(float) * in.size(), RegisteredBuffer::Access::kRead);
    const RegisteredBuffer output(out.data(), sizeof(float) * out.size(),
                                  RegisteredBuffer::Access::kReadWrite);
    broken_kernel(kernel)(in.data(), out.data(), kCount);
    return out;
}

/// The same with as many values as there are threads, so that an overrun leaves the buffers.
void run_to_the_end(const char* kernel) {
    std::vector<float> in(64, 1.0f);
    std::vector<float> out(std::string(kernel) == "write_behind_the_output" ? 63 : 64);
    const RegisteredBuffer input(in.data(), sizeof(float) * in.size(), RegisteredBuffer::Access::kRead);
    const RegisteredBuffer output(out.data(), sizeof(float) * out.size(),
                                  RegisteredBuffer::Access::kReadWrite);
    broken_kernel(kernel)(in.data(), out.data(), static_cast<int>(out.size()));
}

/// "broken_kernels.cu:12" for each line that carries the kernel's remark.
std::vector<std::string> lines_at_fault(const std::string& kernel) {
    std::ifstream file(QLORA_SOURCE_DIR "/tests/emulation/broken_kernels.cu");
    std::vector<std::string> places;
    std::string line;
    for (int number = 1; std::getline(file, line); ++number) {
        const std::size_t remark = line.find("// fault: ");
        if (remark == std::string::npos || line.substr(remark + 10) != kernel) continue;
        places.push_back("broken_kernels.cu:" + std::to_string(number));
    }
    return places;
}

void expect_fault(const Case& test, const std::function<void()>& launch) {
    try {
        launch();
        FAIL() << "no fault was found";
    } catch (const Fault& fault) {
        const std::string message = fault.what();
        EXPECT_EQ(fault.kind(), test.kind) << message;
        if (test.kind == FaultKind::kLaunchLimits) return;
        EXPECT_NE(message.find(test.kernel), std::string::npos) << message;
        for (const std::string& place : lines_at_fault(test.kernel)) {
            EXPECT_NE(message.find(place), std::string::npos) << message << "\nshould name " << place;
        }
    }
}

class BrokenKernel : public testing::TestWithParam<Case> {
  protected:
    void TearDown() override { set_schedule({}); }
};

std::string case_name(const testing::TestParamInfo<Case>& test) {
    return test.param.kernel;
}

/// The cases of some means, where this program has them.
std::vector<Case> cases(const std::set<By>& means, bool has_means) {
    std::vector<Case> chosen;
    if (!has_means) return chosen;
    for (const Case& test : kCases) {
        if (means.count(test.by) != 0) chosen.push_back(test);
    }
    return chosen;
}

class BrokenForTheGrid : public BrokenKernel {};
INSTANTIATE_TEST_SUITE_P(, BrokenForTheGrid, testing::ValuesIn(cases({By::kGrid}, true)), case_name);

TEST_P(BrokenForTheGrid, IsReportedUnderEverySchedule) {
    for (const Schedule& schedule : all_schedules()) {
        SCOPED_TRACE(to_string(schedule));
        set_schedule(schedule);
        expect_fault(GetParam(), [] { run(GetParam().kernel); });
    }
}

class BrokenForTheRaceChecker : public BrokenKernel {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BrokenForTheRaceChecker);
INSTANTIATE_TEST_SUITE_P(, BrokenForTheRaceChecker,
                         testing::ValuesIn(cases({By::kRaceChecker, By::kSchedules, By::kMemoryCheckers},
                                                 checks_races())),
                         case_name);

TEST_P(BrokenForTheRaceChecker, IsReportedUnderEverySchedule) {
    const bool memory = GetParam().by == By::kMemoryCheckers;
    for (const Schedule& schedule : all_schedules()) {
        SCOPED_TRACE(to_string(schedule));
        set_schedule(schedule);
        expect_fault(GetParam(), [memory] {
            memory ? run_to_the_end(GetParam().kernel) : static_cast<void>(run(GetParam().kernel));
        });
    }
}

class BrokenForSchedules : public BrokenKernel {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BrokenForSchedules);
INSTANTIATE_TEST_SUITE_P(, BrokenForSchedules, testing::ValuesIn(cases({By::kSchedules}, !checks_races())),
                         case_name);

TEST_P(BrokenForSchedules, GivesDifferentResults) {
    std::set<std::vector<float>> results;
    for (const Schedule& schedule : all_schedules()) {
        set_schedule(schedule);
        results.insert(run(GetParam().kernel));
    }
    EXPECT_GT(results.size(), 1u);
}

class BrokenForAddressSanitizer : public BrokenKernel {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BrokenForAddressSanitizer);
INSTANTIATE_TEST_SUITE_P(, BrokenForAddressSanitizer,
                         testing::ValuesIn(cases({By::kAddressSanitizer, By::kMemoryCheckers},
                                                 kUnderAddressSanitizer)),
                         case_name);

TEST_P(BrokenForAddressSanitizer, EndsTheProgramWithTheLine) {
    const std::vector<std::string> places = lines_at_fault(GetParam().kernel);
    ASSERT_EQ(places.size(), 1u);
    // UBSan is the first to notice some of them, and begins its report with the place.
    EXPECT_DEATH(run_to_the_end(GetParam().kernel),
                 "AddressSanitizer.*overflow(.|\n)*" + places[0] + "|" + places[0] + ".*runtime error");
}

TEST(BrokenKernels, EveryFaultHasAKernelAndEveryRemarkACase) {
    std::set<FaultKind> kinds;
    for (const Case& test : kCases) kinds.insert(test.kind);
    EXPECT_EQ(kinds.size(), static_cast<std::size_t>(FaultKind::kReadOnly) + 1);
    for (const Case& test : kCases) {
        EXPECT_NE(broken_kernel(test.kernel), nullptr);
        // A launch that is refused has no line.
        EXPECT_EQ(lines_at_fault(test.kernel).empty(), test.kind == FaultKind::kLaunchLimits) << test.kernel;
    }
}

TEST(BrokenKernels, ACorrectLaunchRunsAfterAFault) {
    EXPECT_THROW(run("return_before_barrier"), Fault);
    std::vector<float> in(64, 2.0f), out(64);
    const RegisteredBuffer input(in.data(), sizeof(float) * in.size(), RegisteredBuffer::Access::kRead);
    const RegisteredBuffer output(out.data(), sizeof(float) * out.size(),
                                  RegisteredBuffer::Access::kReadWrite);
    correct_kernel("tree_sum")(in.data(), out.data(), 64);
    EXPECT_EQ(out, std::vector<float>(64, 128.0f));
}

}  // namespace
}  // namespace qlora::emulation
