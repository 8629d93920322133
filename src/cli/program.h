#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace CLI {
class App;
}

namespace qlora::cli {

/// The flags that all programs share, and the frame around each: parsing, logging, errors to exit codes.
class Program {
  public:
    Program(const std::string& name, const std::string& description);
    ~Program();

    CLI::App& app() { return *app_; }

    /// Parses the command line and runs `body`; every error ends here, as one message on stderr and an exit
    /// code.
    int run(int argc, char** argv, const std::function<int()>& body);
    bool quiet() const { return quiet_; }

    /// What makes this run need less memory, for the message when it runs out.
    void set_memory_advice(std::string advice) { memory_advice_ = std::move(advice); }
    const std::string& memory_advice() const { return memory_advice_; }

  private:
    std::unique_ptr<CLI::App> app_;
    bool verbose_ = false;
    bool quiet_ = false;
    std::string memory_advice_;
};

/// "qlora-train 0.1.0, LibTorch 2.11.0, CUDA: not built in".
std::string version_text(const std::string& program);

}  // namespace qlora::cli
