"""The lines that the scripts end with: figures for people, verdicts for the table."""


def quantile(values, part):
    """The value that a part of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


class Verdicts:
    """Keeps them until the end, so that they stand together."""

    def __init__(self):
        self.lines = []
        self.missed = 0

    def note(self, text):
        """A figure on the way."""
        print(f"  {text}", flush=True)

    def at_most(self, row, found, goal, unit):
        """A figure and its goal; none at all is a miss."""
        is_met = found is not None and found <= goal
        figures = "" if found is None else f"{found:,.0f}" if found >= 1000 else f"{found:.3g}"
        said = f"{figures} {unit}" if figures else "nothing"
        self.missed += not is_met
        self.lines.append(
            f"verdict: {row}: {said}, goal at most {goal:g}: {'met' if is_met else 'MISSED'}"
        )

    def show(self):
        """Prints them; the number of misses."""
        print("\n".join(self.lines), flush=True)
        return self.missed
