#pragma once

#include <string>

namespace qlora::cli {

/// Tells on stderr how far a program is: lines that stay and, on a terminal, one below them that is written
/// over.
class StatusLine {
  public:
    explicit StatusLine(bool quiet);
    ~StatusLine() { clear(); }
    StatusLine(const StatusLine&) = delete;
    StatusLine& operator=(const StatusLine&) = delete;

    void print(const std::string& line);
    /// The line that is written over; nothing where stderr is no terminal.
    void show(const std::string& line);
    void clear();
    bool is_terminal() const { return terminal_; }

  private:
    bool quiet_;
    bool terminal_;
    bool shown_ = false;
};

/// "[######..................]" for a quarter.
std::string bar(double share);

/// "1:02:03" or "4:05".
std::string duration_text(double seconds);

}  // namespace qlora::cli
