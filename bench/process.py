"""Runs a program and measures it from outside: time, peak memory, and when its lines came."""

import dataclasses
import os
import subprocess
import threading
import time

POLL_SECONDS = 0.02


class ProcessError(Exception):
    """A program that ended badly; the text is its last words."""


@dataclasses.dataclass
class Finished:
    began: float  # monotonic clock
    seconds: float
    peak_rss: int  # bytes
    stdout: str
    log: list  # (monotonic time, line) of stderr
    line_times: list  # when each line of the watched file appeared


def watch_lines(file, ended, times):
    """Appends the time at which each whole line of a growing file was seen."""
    position = 0
    while True:
        last = ended.is_set()
        try:
            with open(file, "rb") as stream:
                stream.seek(position)
                added = stream.read()
        except FileNotFoundError:
            added = b""
        times.extend([time.monotonic()] * added.count(b"\n"))
        position += len(added)
        if last:
            return
        ended.wait(POLL_SECONDS)


def read_stream(stream, lines):
    for line in stream:
        lines.append((time.monotonic(), line.rstrip("\n")))


def run(command, env, watched=None, limit=None):
    """Starts the program as a copy of this process, whose memory then counts: keep this small. One
    that takes longer than `limit` seconds is killed."""
    began = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    out, log, times = [], [], []
    ended = threading.Event()
    threads = [
        threading.Thread(target=read_stream, args=(process.stdout, out)),
        threading.Thread(target=read_stream, args=(process.stderr, log)),
    ]
    if watched:
        threads.append(threading.Thread(target=watch_lines, args=(watched, ended, times)))
    for thread in threads:
        thread.start()
    alarm = threading.Timer(limit, process.kill) if limit is not None else None
    if alarm:
        alarm.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        os.wait4(process.pid, 0)
        raise
    finally:
        seconds = time.monotonic() - began
        if alarm:
            alarm.cancel()
        ended.set()
        for thread in threads:
            thread.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if limit is not None and seconds >= limit and process.returncode < 0:
        raise ProcessError(f"took longer than {limit:.0f} s")
    if process.returncode != 0:
        last = [line for _, line in log if line.strip()][-3:]
        raise ProcessError(f"exit code {process.returncode}: " + (" / ".join(last) or "no output"))
    text = "\n".join(line for _, line in out)
    return Finished(began, seconds, usage.ru_maxrss * 1024, text, log, times)


def environment(threads, spins, jemalloc=None):
    """Variables of an entrant; `jemalloc` is the library's path."""
    env = {
        k: v
        for k, v in os.environ.items()
        if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "LD_PRELOAD", "MALLOC_CONF")
    }
    env["OMP_NUM_THREADS"] = str(threads)
    env["HF_HUB_OFFLINE"] = "1"
    env["TRANSFORMERS_VERBOSITY"] = "error"
    env["TOKENIZERS_PARALLELISM"] = "false"
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    if spins:
        env["OMP_WAIT_POLICY"] = "active"
    if jemalloc:
        env["LD_PRELOAD"] = str(jemalloc)
        env["MALLOC_CONF"] = "dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always"
    return env
