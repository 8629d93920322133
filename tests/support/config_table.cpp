// Prints the README's configuration tables: scripts/update_readme.py puts them in place.
#include <iostream>

#include "qlora/cli/run_config.h"

int main() {
    std::cout << qlora::cli::config_table_markdown();
}
