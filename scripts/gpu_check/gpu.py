"""The card: its name, and how much of its memory is in use while a program runs."""

import os
import subprocess
import threading

SAMPLE_MILLISECONDS = 100


def selected():
    """The card that CUDA calls device 0."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"


def query(fields, *options):
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    return [*command, "-i", selected(), *options]


def describe():
    names = ("name", "driver_version", "memory.total", "compute_cap", "power.limit", "clocks.max.sm")
    done = subprocess.run(query(",".join(names)), capture_output=True, text=True)
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(names, values)) if done.returncode == 0 and len(values) == len(names) else {}


def largest(lines):
    """Bytes; nvidia-smi prints MiB, or words where it cannot tell."""
    values = [int(line) for line in lines if line.strip().isdigit()]
    return max(values) * 2**20 if values else None


class MemoryWatch:
    """`with MemoryWatch() as watch: ...`, then watch.peak: bytes in use beyond those before; None where the
    driver cannot tell. The driver's figure includes the CUDA context, some hundreds of MB."""

    def __enter__(self):
        self.peak, self.lines = None, []
        before = subprocess.run(query("memory.used"), capture_output=True, text=True)
        self.before = largest(before.stdout.splitlines())
        self.process = subprocess.Popen(
            query("memory.used", "-lms", str(SAMPLE_MILLISECONDS)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.thread = threading.Thread(target=lambda: self.lines.extend(self.process.stdout))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.thread.join()
        self.process.wait()
        peak = largest(self.lines)
        if peak is not None and self.before is not None:
            self.peak = peak - self.before
