"""The figures and verdicts that a script prints."""


def quantile(values, part):
    """The value that this fraction of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


class Verdicts:
    """Verdicts, kept until the end so that they are printed together."""

    def __init__(self):
        self.lines = []
        self.missed = 0

    def note(self, text):
        """Prints a figure at once."""
        print(f"  {text}", flush=True)

    def at_most(self, row, found, goal, unit):
        """Adds a verdict with an upper bound. `None` misses the goal."""
        is_met = found is not None and found <= goal
        figures = "" if found is None else f"{found:,.0f}" if found >= 1000 else f"{found:.3g}"
        shown = f"{figures} {unit}" if figures else "nothing"
        self.missed += not is_met
        self.lines.append(
            f"verdict: {row}: {shown}, goal at most {goal:g}: {'met' if is_met else 'MISSED'}"
        )

    def show(self):
        """Prints all verdicts and returns the number of misses."""
        print("\n".join(self.lines), flush=True)
        return self.missed
