#!/usr/bin/env bash
# Makes the archive that runs anywhere: build/package/qlora-VERSION-linux-x86_64.tar.zst holds the programs, every
# library that they need except the C library, and all licences. Where build/cuda has the CUDA plug-in, programs and
# plug-in are taken from there; a GPU then needs the CUDA libraries of a LibTorch of the same version besides.
#
#   scripts/package.sh [--deb]   also a Debian package of the same files, under /opt/qlora with links in /usr/bin
#       --no-build               takes the build as it is
#       --build FOLDER           this build instead of build/cuda or build/release; implies --no-build
#       --output FOLDER          default: build/package
#       --level N                of zstd, 1 to 19; default 9. 19 takes many minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

programs=(qlora-train qlora-eval qlora-merge qlora-quantize qlora-data)
# What the files need at most, so that they run on Debian 12, Ubuntu 22.04 and Fedora 36: a build that needs more is refused.
oldest_glibc=2.34
oldest_libstdcxx=GLIBCXX_3.4.30  # of GCC 12
# The C library and its parts, which every system has: the only ones that stay out.
c_library='^(ld-linux-x86-64\.so\.2|lib(c|m|dl|pthread|rt|util)\.so\.[0-9]+)$'
# Debian packages whose headers become part of the programs.
header_packages=(libcli11-dev nlohmann-json3-dev libspdlog-dev)

say() { echo "package: $*"; }
die() { echo "package: $*" >&2; exit 2; }

# is_number TEXT LEAST MOST
is_number() { [[ $1 =~ ^[0-9]{1,3}$ ]] && ((10#$1 >= $2 && 10#$1 <= $3)); }

parse_options() {
    deb= build= output=build/package level=9 build_first=1
    while (($# > 0)); do
        case $1 in
            -h | --help) sed -n '2,10s/^# \?//p' "${BASH_SOURCE[0]}"; exit ;;
            --deb) deb=1 ;;
            --no-build) build_first= ;;
            --build | --output | --level)
                (($# > 1)) || die "$1 needs a value (see scripts/package.sh --help)"
                case $1 in
                    --build) build=$2 build_first= ;;
                    --output) output=$2 ;;
                    --level) level=$2 ;;
                esac
                shift ;;
            *) die "unknown option $1 (see scripts/package.sh --help)" ;;
        esac
        shift
    done
    is_number "$level" 1 19 || die "--level is a number from 1 to 19, not '$level'"
    if [[ -z $build ]]; then
        build=build/release
        [[ ! -f build/cuda/lib/libqlora_kernels_cuda.so ]] || build=build/cuda
    fi
}

# cached NAME: a variable of the build's CMake cache
cached() { sed -n "s/^$1:[^=]*=//p" "$build/CMakeCache.txt"; }

# needs FILE: the shared libraries that it names
needs() { readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'; }

# newest PREFIX file...: the newest version with this prefix that the files ask for
newest() {
    local prefix=$1
    shift
    objdump -T "$@" 2>/dev/null | grep -oE "\(?\b${prefix}_[0-9.]+" | tr -d '(' | sort -Vu | tail -n 1 || true
}

# binaries: the programs and libraries of the folder, without those of lib/gcc
binaries() { find "$folder/libexec" "$folder/lib" -path "$folder/lib/gcc" -prune -o -type f \( -perm -u+x -o -name '*.so*' \) -print; }

install_files() {
    rm -rf "$folder"
    mkdir -p "$folder"
    cmake --install "$build" --prefix "$folder" --strip >"$log"
    cmake --install "$build" --prefix "$folder" --component self_contained >>"$log"
    # The symbols of functions that no other file can call: a fifth of libtorch_cpu.so.
    strip "$folder"/lib/libtorch_cpu.so "$folder"/lib/libc10.so
    mkdir "$folder/lib/torch"
    cp "$torch"/version.py "$torch"/build-version "$folder/lib/torch/" 2>/dev/null || true
    [[ -n $(ls "$folder/lib/torch") ]] || die "$torch has neither version.py nor build-version: which LibTorch is it?"
    newest GLIBCXX $(binaries) >"$folder/lib/gcc/needs"
    chmod -R u+w,go-w,a+rX "$folder"
}

# Everything that a file of the folder loads lies in the folder or is part of the C library.
check_closure() {
    local file name missing=()
    while read -r file; do
        for name in $(needs "$file"); do
            [[ $name =~ $c_library || -e $folder/lib/$name || -e $folder/lib/gcc/$name ]] ||
                missing+=("$name, which ${file#"$folder/"} needs")
        done
    done < <(binaries)
    ((${#missing[@]} == 0)) || die "these libraries are not in the folder: $(printf '%s; ' "${missing[@]}")"
}

# is_at_most VERSION LIMIT
is_at_most() { [[ $(printf '%s\n' "$1" "$2" | sort -V | tail -n 1) == "$2" ]]; }

check_versions() {
    local glibc libstdcxx
    glibc=$(newest GLIBC $(binaries))
    libstdcxx=$(<"$folder/lib/gcc/needs")
    runtime_glibc=$(newest GLIBC "$folder"/lib/gcc/lib*)
    say "oldest glibc: ${glibc#GLIBC_} where the system's own libstdc++ has $libstdcxx, else ${runtime_glibc#GLIBC_}," \
        "for the libstdc++ that comes along"
    is_at_most "${glibc#GLIBC_}" $oldest_glibc && is_at_most "$libstdcxx" $oldest_libstdcxx ||
        die "these files need more than glibc $oldest_glibc and $oldest_libstdcxx: build on an older system"
}

# debian_package FILE: the installed Debian package that it comes from
debian_package() {
    local path
    path=$(find /usr/lib/x86_64-linux-gnu /lib/x86_64-linux-gnu -name "$(basename "$1")" -print -quit)
    { dpkg-query -S "${path:-$1}" || dpkg-query -S "${path#/usr}"; } 2>/dev/null | sed -n '1s/:.*//p'
}

collect_licences() {
    local licences=$folder/share/doc/qlora/licences site=${torch%/*} file name package found=()
    mkdir -p "$licences"
    for file in "$site"/torch-*.dist-info/licenses/{LICENSE,NOTICE} "$torch"/{LICENSE,NOTICE}; do
        [[ -f $file ]] || continue
        cp "$file" "$licences/libtorch-$(basename "$file")"
        found+=("$file")
    done
    ((${#found[@]} > 0)) || die "LibTorch's LICENSE is neither in $torch nor in a torch-*.dist-info beside it"
    for name in cudart:nvidia_cuda_runtime cupti:nvidia_cuda_cupti; do
        [[ -n $(find "$folder/lib" -name "lib${name%:*}*") ]] || continue
        file=$(find "$site" -path "*/${name#*:}*.dist-info/*" -name 'License*' -print -quit 2>/dev/null)
        [[ -n $file ]] || die "the licence of lib${name%:*} (${name#*:}) is not beside $torch"
        cp "$file" "$licences/${name#*:}-LICENSE"
    done
    if [[ -e $folder/lib/libqlora_parquet.so ]]; then
        for file in "${arrow%/*}"/pyarrow-*.dist-info/licenses/{LICENSE,NOTICE}.txt; do
            [[ -f $file ]] || die "Arrow's licence $(basename "$file") is not beside $arrow"
            cp "$file" "$licences/arrow-$(basename "$file")"
        done
    fi
    for file in $(find "$folder"/lib -type f -name 'lib*' ! -name 'libtorch*' ! -name 'libarrow*' ! -name 'libparquet*' ! -name 'libc10*' ! -name 'libcu*' \
        ! -name 'libgomp*' ! -name 'libqlora*') "${header_packages[@]}"; do
        package=$file
        [[ $file != /* && $file != */* ]] || package=$(debian_package "$file")
        [[ -n $package && -f /usr/share/doc/$package/copyright ]] ||
            die "the licence of $(basename "$file") was not found in /usr/share/doc"
        cp -L "/usr/share/doc/$package/copyright" "$licences/$package-copyright"
    done
    # The long texts that the copyright files refer to.
    grep -ohE '/usr/share/common-licenses/[A-Za-z0-9.-]*[A-Za-z0-9]' "$licences"/*-copyright | sort -u |
        while read -r file; do
            [[ ! -f $file ]] || cp -L "$file" "$licences/"
        done
}

write_readme() {
    local plug_in="It runs on the CPU; the archive holds no CUDA kernels."
    [[ ! -f $folder/lib/libqlora_kernels_cuda.so ]] ||
        plug_in="For an NVIDIA GPU set QLORA_TORCH_LIB to torch/lib of a Python environment with torch of the version in lib/torch."
    cat >"$folder/README.txt" <<TEXT
qlora $version for Linux on x86-64: fine-tunes language models with QLoRA, without Python. Unpack it
anywhere and run the programs in bin/; nothing has to be installed, no root is needed.
The system must have /bin/sh and glibc ${runtime_glibc#GLIBC_}, or glibc $oldest_glibc and the C++ library of GCC 12 (Debian 12, Ubuntu 22.04, Fedora 36).
  bin/qlora-train --config run.json --dry-run             shows what a run would do; without --dry-run it trains
  bin/qlora-eval --model DIR --adapter DIR --data FILE    measures a model with an adapter
  bin/qlora-merge --model DIR --adapter DIR --output DIR  adds the adapter to the model
  bin/qlora-quantize --model DIR --output DIR             stores a model in 4 bits
  bin/qlora-data --config run.json --html rows.html       looks at the rows before training
--help-config lists all settings, --version what the programs were built with; share/doc/qlora/README.md is the guide. $plug_in
Licences: Apache-2.0 for qlora (share/doc/qlora/LICENSE), those of the libraries in share/doc/qlora/licences.
TEXT
}

# What is there and what stayed out, in MB.
print_sizes() {
    local library other
    say "MB in the folder:"
    find "$folder" -type f -printf '%s %P\n' | sort -rn | awk '$1 >= 1e5 { printf "package: %8.1f  %s\n", $1 / 1e6, $2; next }
        { rest += $1 } END { printf "package: %8.1f  smaller files\n", rest / 1e6 }'
    say "MB left out of LibTorch ($torch):"
    {
        for library in "$torch"/lib/*.so*; do
            if [[ ! -e $folder/lib/$(basename "$library") ]]; then
                stat -Lc "%s lib/%n" "$library" | sed "s|lib/.*/|lib/|"
            fi
        done
        echo "$(($(stat -Lc %s "$torch/lib/libtorch_cpu.so") - $(stat -c %s "$folder/lib/libtorch_cpu.so")))" \
            "symbols of lib/libtorch_cpu.so"
        for other in include bin share; do
            [[ ! -d $torch/$other ]] || echo "$(du -sb "$torch/$other" | cut -f1) $other/"
        done
        echo "$(find "$torch" -name '*.py' -printf '%s\n' | awk '{ sum += $1 } END { print sum + 0 }') Python sources"
    } | sort -rn | awk '{ size = $1; $1 = ""; printf "package: %8.1f %s\n", size / 1e6, $0 }'
}

make_archive() {
    tar --directory "$output" --sort=name --owner=0 --group=0 --numeric-owner --create "$archive" |
        zstd --quiet --force -T0 "-$level" -o "$output/$archive.tar.zst"
    say "$output/$archive.tar.zst: $(du -m --apparent-size "$output/$archive.tar.zst" | cut -f1) MB," \
        "unpacked $(du -sm --apparent-size "$folder" | cut -f1) MB"
}

make_debian_package() {
    local root=$output/debian-root program
    rm -rf "$root"
    mkdir -p "$root"/opt "$root"/usr/bin "$root"/usr/share/doc/qlora
    cp -al "$folder" "$root/opt/qlora"
    for program in "${programs[@]}"; do
        ln -s "../../opt/qlora/bin/$program" "$root/usr/bin/$program"
    done
    {
        echo "qlora is licensed under Apache-2.0, see /opt/qlora/share/doc/qlora/LICENSE and"
        echo "/usr/share/common-licenses/Apache-2.0. The licences of the libraries that it brings along are in"
        echo "/opt/qlora/share/doc/qlora/licences."
    } >"$root/usr/share/doc/qlora/copyright"
    cpack -G DEB --config cmake/debian_package.cmake -B "$output" -R "$version" \
        -D CPACK_INSTALLED_DIRECTORIES="$root;." \
        -D CPACK_DEBIAN_PACKAGE_DEPENDS="libc6 (>= $oldest_glibc), libstdc++6 (>= 12), libgcc-s1" >"$log" 2>&1 ||
        { cat "$log" >&2; die "cpack could not make the Debian package"; }
    rm -rf "$root" "$output/_CPack_Packages"
    say "$output/qlora_${version}_amd64.deb: $(du -m --apparent-size "$output/qlora_${version}_amd64.deb" | cut -f1) MB"
}

parse_options "$@"
for tool in zstd readelf objdump strip dpkg-query; do
    command -v $tool >/dev/null || die "$tool is missing (scripts/setup.sh installs it)"
done
[[ $(uname -m) == x86_64 ]] || die "the archive is for x86-64, this machine is $(uname -m)"
if [[ -n $build_first ]]; then
    targets=(programs)
    if [[ $build == build/cuda ]]; then
        targets+=(qlora_kernels_cuda)
        export PATH=$PATH:/usr/local/cuda/bin  # nvcc, where its installer puts it
    fi
    cmake --preset "${build#build/}"
    cmake --build --preset "${build#build/}" --target "${targets[@]}"
fi
[[ -f $build/CMakeCache.txt && -x $build/bin/qlora-train ]] || die "$build holds no built programs"
version=$(cached CMAKE_PROJECT_VERSION)
torch=$(cached QLORA_TORCH_ROOT)
arrow=$(cached QLORA_ARROW_ROOT)
archive=qlora-$version-linux-x86_64
mkdir -p "$output"
output=$(cd "$output" && pwd)
folder=$output/$archive
log=$output/package.log

install_files
check_closure
check_versions
collect_licences
write_readme
print_sizes
make_archive
[[ -z $deb ]] || make_debian_package
