// Part of each program, not of the library. libgomp's threads spin while they wait, for ever in effect: two
// busy programs on two cores make each other up to 80 times slower. Without any spinning a step of many small
// products is three times slower instead, because every wait of some microseconds becomes a sleep. So threads
// spin a little and then sleep. libgomp has no call for this: it asks getenv() for two variables while it is
// loaded, which is before any code of the program but after the C library has fixed the environment, so
// setenv() comes too late or is undone. Its question is answered here instead: the program's getenv() stands
// before the C library's and names two defaults. If the user has set either variable, both are left alone.

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

namespace {

using Getenv = char* (*)(const char*);

char* environment_of_user(const char* name) {
    static const auto original = reinterpret_cast<Getenv>(dlsym(RTLD_NEXT, "getenv"));
    return original(name);
}

constexpr const char* kWaitPolicy = "OMP_WAIT_POLICY";
constexpr const char* kSpinCount = "GOMP_SPINCOUNT";

}  // namespace

extern "C" __attribute__((visibility("default"))) char* getenv(const char* name) noexcept {
    // About 30 microseconds of spinning: from 1,000 to 20,000 rounds no difference was measured, alone or
    // beside two busy neighbours.
    static char policy[] = "passive", rounds[] = "10000";
    const bool is_policy = std::strcmp(name, kWaitPolicy) == 0;
    const bool is_asked_for = is_policy || std::strcmp(name, kSpinCount) == 0;
    if (is_asked_for && environment_of_user(kWaitPolicy) == nullptr &&
        environment_of_user(kSpinCount) == nullptr) {
        return is_policy ? policy : rounds;
    }
    return environment_of_user(name);
}
