#include "qlora/cli/commands.h"

int main(int argc, char** argv) {
    return qlora::cli::eval_main(argc, argv);
}
