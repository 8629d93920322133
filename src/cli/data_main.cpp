#include "qlora/cli/commands.h"

int main(int argc, char** argv) {
    return qlora::cli::data_main(argc, argv);
}
