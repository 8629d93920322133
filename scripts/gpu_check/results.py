"""What the check found: rows of one table, and the same with all figures as JSON."""

import time

PASSED, FAILED, SKIPPED, MEASURED = "passed", "FAILED", "skipped", "measured"
RESERVE = 15  # seconds kept for the report


class Results:
    def __init__(self, minutes, machine):
        self.machine, self.rows = machine, []
        self.began = time.monotonic()
        self.end = self.began + 60 * minutes

    def seconds_left(self):
        return self.end - RESERVE - time.monotonic()

    def limit(self, most):
        """Seconds that the next program may take: `most`, or what is left."""
        return max(1.0, min(most, self.seconds_left()))

    def add(self, part, name, outcome, text, **figures):
        self.rows.append({"part": part, "name": name, "outcome": outcome, "text": text, **figures})
        print(f"gpu_check: {part}: {name}: {outcome}: {text}", flush=True)

    def has_time(self, part, name, seconds):
        """Whether as many seconds are left; a row says so when not."""
        if self.seconds_left() >= seconds:
            return True
        self.add(part, name, SKIPPED, "out of time")
        return False

    def failures(self):
        return [row for row in self.rows if row["outcome"] == FAILED]

    def table(self):
        lines = [("part", "what", "outcome", "figures")]
        lines += [(row["part"], row["name"], row["outcome"], row["text"]) for row in self.rows]
        size = [max(len(line[column]) for line in lines) for column in range(3)]
        body = ["  ".join([*(w.ljust(n) for w, n in zip(line, size)), line[3]]).rstrip() for line in lines]
        counts = {outcome: 0 for outcome in (PASSED, FAILED, SKIPPED, MEASURED)}
        for row in self.rows:
            counts[row["outcome"]] += 1
        summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        return "\n".join([*body, f"{summary}; {time.monotonic() - self.began:.0f} s"])

    def as_json(self):
        return {
            "machine": self.machine,
            "seconds": round(time.monotonic() - self.began, 1),
            "failed": len(self.failures()),
            "rows": self.rows,
        }
