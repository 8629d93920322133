#pragma once

/// The programs. Each parses its command line, runs, and returns the exit code (core/error.h; 130 and 143
/// after a signal).
namespace qlora::cli {

int train_main(int argc, char** argv);
int eval_main(int argc, char** argv);
int merge_main(int argc, char** argv);
int quantize_main(int argc, char** argv);
int data_main(int argc, char** argv);

}  // namespace qlora::cli
