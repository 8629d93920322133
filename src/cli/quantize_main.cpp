#include "qlora/cli/commands.h"

int main(int argc, char** argv) {
    return qlora::cli::quantize_main(argc, argv);
}
