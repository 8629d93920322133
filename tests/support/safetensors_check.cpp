// safetensors_check FILE...           one line a file: "ok" or "refused: <reason>"
// safetensors_check --rewrite IN OUT  copies a file through reader and writer, in the package's order
// safetensors_check --checkpoint DIR  "ok <fingerprint>" or "refused: <reasons>"

#include <algorithm>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/io/checkpoint.h"
#include "qlora/io/safetensors.h"

namespace {

using qlora::io::SafetensorsFile;

void rewrite(const std::string& in, const std::string& out) {
    const SafetensorsFile source(in);
    std::vector<qlora::io::TensorSpec> specs;
    for (const auto& tensor : source.tensors()) specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    specs = qlora::io::sorted_for_safetensors(std::move(specs));
    qlora::io::SafetensorsWriter writer(out, specs, source.metadata());
    for (const auto& spec : specs) {
        const auto& tensor = source.at(spec.name);
        writer.append(tensor.bytes);
        source.release(tensor);
    }
    writer.finish();
}

std::string on_one_line(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    try {
        if (arguments.size() == 3 && arguments[0] == "--rewrite") {
            rewrite(arguments[1], arguments[2]);
        } else if (arguments.size() == 2 && arguments[0] == "--checkpoint") {
            std::cout << "ok " << qlora::io::Checkpoint(arguments[1]).fingerprint() << "\n";
        } else {
            for (const std::string& file : arguments) {
                try {
                    const SafetensorsFile opened(file);
                    std::cout << "ok\n";
                } catch (const qlora::Error& error) {
                    std::cout << "refused: " << on_one_line(error.what()) << "\n";
                }
            }
        }
    } catch (const qlora::Error& error) {
        std::cout << "refused: " << on_one_line(error.what()) << "\n";
        return static_cast<int>(error.code());
    }
    return 0;
}
