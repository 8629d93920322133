#include "qlora/cli/commands.h"

int main(int argc, char** argv) {
    return qlora::cli::train_main(argc, argv);
}
