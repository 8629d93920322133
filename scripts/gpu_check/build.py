"""Builds the kernels' tests and benchmark with nvcc and g++ alone, without the project's packages."""

import concurrent.futures
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from kernel_report import build_settings, find_nvcc  # noqa: E402


class BuildError(Exception):
    pass


def find_googletest(root):
    """Folder with include/gtest and src/gtest-all.cc: the bundle's, or Debian's package googletest."""
    for folder in (root.parent / "googletest", Path("/usr/src/googletest/googletest")):
        if (folder / "src" / "gtest-all.cc").is_file():
            return folder
    return None


def run(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        faults = [line for line in lines if "error" in line.lower()] or lines or ["no output"]
        raise BuildError(f"{Path(str(command[0])).name} failed: {faults[0].strip()}")


class Compiler:
    def __init__(self, root, folder, arch):
        self.root, self.folder, self.nvcc = root, folder, find_nvcc()
        if not self.nvcc:
            raise BuildError("nothing can be built: nvcc is neither on PATH nor in /usr/local/cuda/bin")
        toolkit = Path(self.nvcc).resolve().parents[1]
        _, flags = build_settings()
        includes = [f"-I{root / 'include'}", f"-I{root / 'tests'}", f"-I{toolkit / 'include'}"]
        self.cuda = [self.nvcc, f"-arch={arch}", "-O3", *flags, *includes]
        self.host = [os.environ.get("CXX", "g++"), "-std=c++20", "-O2", "-ffp-contract=off", *includes]

    def compile(self, source, extra):
        name = "_".join(source.parts[-3:])  # folders may hold files of one name
        output = self.folder / f"{name}.o"
        run([*(self.cuda if source.suffix == ".cu" else self.host), *extra, "-c", source, "-o", output])
        return output

    def objects(self, sources, extra, pool):
        return [pool.submit(self.compile, source, extra) for source in sources]

    def link(self, name, jobs):
        output = self.folder / name
        run([self.nvcc, "-o", output, *[job.result() for job in jobs], "-lpthread"])
        return output


def build(root, folder, jobs, notes, arch="native"):
    """(tests or None, benchmark)"""
    folder.mkdir(parents=True, exist_ok=True)
    compiler = Compiler(root, folder, arch)
    if not shutil.which(compiler.host[0]):
        raise BuildError(f"nothing can be built: {compiler.host[0]} is not on PATH")
    googletest = find_googletest(root)
    if not googletest:
        notes.append("GoogleTest's sources are not here (scripts/bundle.sh brings them): no kernel tests")
    device = root / "tests" / "kernels" / "device"
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        try:
            kernels = compiler.objects(sorted((root / "src/kernels/cuda").glob("*.cu")), [], pool)
            benchmark = compiler.objects([root / "bench" / "cuda_kernels_bench.cpp"], [], pool)
            tests = []
            if googletest:
                extra = [f"-I{googletest}", f"-I{googletest / 'include'}"]
                frame = [googletest / "src" / name for name in ("gtest-all.cc", "gtest_main.cc")]
                bodies = [*sorted(device.glob("*_test.cpp")), device / "device_cuda.cpp"]
                tests = compiler.objects([*bodies, *frame], extra, pool)
                tests += compiler.objects(sorted((root / "src/kernels/cpu").glob("*.cpp")), [], pool)
            bench = compiler.link("cuda_kernels_bench", benchmark + kernels)
            return (compiler.link("cuda_tests", tests + kernels) if googletest else None), bench
        except BuildError:
            pool.shutdown(wait=False, cancel_futures=True)  # one fault ends the build; what runs is waited for
            raise
