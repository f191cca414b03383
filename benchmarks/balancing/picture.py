"""Slots over time, one strip per policy."""

from __future__ import annotations

from pathlib import Path

Bars = list[tuple[int, float, float]]
"""(slot, begin, end), in seconds."""


def draw(file: Path, columns: dict[str, dict[str, Bars]]) -> None:
    """Writes a picture: a column per case, a strip per policy, a lane per slot, a bar per item.

    Parameters
    ----------
    columns : dict
        By title of a column, by label of a strip: what ran when.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    strips = max(len(column) for column in columns.values())
    figure, axes = pyplot.subplots(
        strips, len(columns), figsize=(5.5 * len(columns), 0.9 * strips + 1), squeeze=False, layout="constrained"
    )
    for place, (title, column) in enumerate(columns.items()):
        last = max(end for bars in column.values() for _, _, end in bars)
        longest = max(end - begin for bars in column.values() for _, begin, end in bars)
        shades = pyplot.get_cmap("viridis")
        for row in range(strips):
            axis = axes[row][place]
            if row >= len(column):
                axis.set_axis_off()
                continue
            label, bars = list(column.items())[row]
            for slot in sorted({slot for slot, _, _ in bars}):
                here = [(begin, end) for number, begin, end in bars if number == slot]
                axis.broken_barh(
                    [(begin, end - begin) for begin, end in here],
                    (slot + 0.08, 0.84),
                    facecolors=[shades(0.15 + 0.8 * (end - begin) / longest) for begin, end in here],
                    edgecolor="white",
                    linewidth=0.2,
                )
            axis.axvline(max(end for _, _, end in bars), color="crimson", linewidth=1)
            axis.set_xlim(0, last * 1.01)
            axis.set_yticks([])
            axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
            axis.tick_params(labelsize=7)
            if row < len(column) - 1:
                axis.set_xticklabels([])
        axes[0][place].set_title(title, fontsize=9)
        axes[len(column) - 1][place].set_xlabel("seconds", fontsize=8)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)
