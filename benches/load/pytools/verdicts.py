"""The figures and verdicts that a script prints."""


def quantile(values, part):
    """Returns the value that this fraction of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


class Verdicts:
    """Collects verdicts, so that they are printed together at the end."""

    def __init__(self):
        self.lines = []
        self.missed = 0

    def note(self, text):
        """Prints a figure immediately."""
        print(f"  {text}", flush=True)

    def at_most(self, row, found, goal, unit):
        """Adds a verdict with an upper bound. A value of `None` misses the goal."""
        is_met = found is not None and found <= goal
        figures = "" if found is None else f"{found:,.0f}" if found >= 1000 else f"{found:.3g}"
        shown = f"{figures} {unit}" if figures else "nothing"
        self.missed += not is_met
        self.lines.append(
            f"verdict: {row}: {shown}, goal at most {goal:g}: {'met' if is_met else 'MISSED'}"
        )

    def show(self):
        """Prints all verdicts and returns the number of missed goals."""
        print("\n".join(self.lines), flush=True)
        return self.missed
