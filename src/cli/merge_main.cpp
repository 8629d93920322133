#include "qlora/cli/commands.h"

int main(int argc, char** argv) {
    return qlora::cli::merge_main(argc, argv);
}
