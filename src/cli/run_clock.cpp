#include "run_clock.h"

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/core/optional_file.h"

namespace qlora::cli {
namespace {

struct Place {
    const char* name;
    int jinja::LocalTime::*value;
};
constexpr Place kPlaces[] = {{"year", &jinja::LocalTime::year},
                             {"month", &jinja::LocalTime::month},
                             {"day", &jinja::LocalTime::day},
                             {"hour", &jinja::LocalTime::hour},
                             {"minute", &jinja::LocalTime::minute},
                             {"second", &jinja::LocalTime::second},
                             {"microsecond", &jinja::LocalTime::microsecond}};

}  // namespace

jinja::LocalTime run_clock(const std::filesystem::path& file) {
    jinja::LocalTime clock = jinja::LocalTime::now();
    if (!optional_file_exists(file)) return clock;
    const Json json = read_json_file(file);
    for (const Place& place : kPlaces) {
        if (!json.is_object() || !json.contains(place.name) || !json.at(place.name).is_number_integer())
            throw CheckpointError(file.string() + ": must give the " + place.name +
                                  " at which the run began");
        clock.*place.value = json.at(place.name).get<int>();
    }
    return clock;
}

void write_run_clock(const std::filesystem::path& file, const jinja::LocalTime& clock) {
    Json json;
    for (const Place& place : kPlaces) json[place.name] = clock.*place.value;
    write_file_atomically(file, json.dump(2) + "\n");
}

}  // namespace qlora::cli
