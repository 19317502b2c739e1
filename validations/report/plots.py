"""Plots of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from validations.measure.aggregates import Aggregates, Histogram
from validations.report.svg import FIRST, LIMIT, SECOND, Plot, as_plot, legend, legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Datasets = Mapping[str, Aggregates]  # one or two, by label of the legend
Speeds = Mapping[str, Sequence[tuple[float, float]]]  # (engine seconds at the interval's end, tokens/s), by label

SERIES = ((FIRST, "-"), (SECOND, "--"))  # distinguishable without colour
DASHES = ("-", "--", ":", "-.")
LOG_AXIS_FROM = 4.0  # log axis where the last range of positions is this many times wider than the first
Z_95 = 1.959964


def draw_plots(datasets: Datasets, speeds: Speeds, kl_error_max: float = 1e-6) -> list[Plot]:
    """Return every plot, in the order of a report; that of speed only where a dataset has one."""
    plots = [
        alpha(datasets),
        alpha_by_position(datasets),
        kl_error(datasets, kl_error_max),
        divergence_by_position(datasets),
        overlap_mass(datasets),
        lengths(datasets),
        ess_ratio(datasets),
        correctness(datasets),
    ]
    return [*plots, speed(speeds)] if any(speeds.values()) else plots


def alpha(datasets: Datasets) -> Plot:
    """Histogram of α."""
    caption = "The teacher's weight at each mixed token: at 0 theta speaks alone, at 1 the teacher."
    return _histogram_plot("alpha", "Distribution of α", caption, _each(datasets, "alpha"), "α of mixed tokens")


def kl_error(datasets: Datasets, kl_error_max: float = 1e-6) -> Plot:
    """Histogram of |KL(q*‖π_θ) − KL(q*‖π_t)|, nats, log scale, with the limit as a line."""
    caption = (
        "What lies right of the line breaks the KL symmetry that α solves. The outer bars hold what is further out."
    )
    histograms = _each(datasets, "log10_kl_error")
    return _histogram_plot("kl-error", "KL error", caption, histograms, "KL error of mixed tokens (nats)", kl_error_max)


def overlap_mass(datasets: Datasets) -> Plot:
    """Histogram of the overlap mass."""
    caption = (
        "The smaller of the two models' mass on the top-k tokens that both share; at 0 they have nothing in common."
    )
    histograms = _each(datasets, "overlap_mass")
    return _histogram_plot("overlap", "Overlap mass", caption, histograms, "overlap mass of all tokens", what="token")


def ess_ratio(datasets: Datasets) -> Plot:
    """Histogram of ESS_θ / ESS_t, log scale."""
    caption = "Above 1, q* is nearer to theta; below 1, to the teacher."
    histograms = _each(datasets, "log10_ess_ratio")
    return _histogram_plot("ess", "ESS ratio", caption, histograms, "ESS_θ / ESS_t of mixed tokens", 1.0, limit_text="")


def alpha_by_position(datasets: Datasets) -> Plot:
    """Mean α along a completion, ± one standard deviation."""
    title = "α by position"
    caption = "Mean over the mixed tokens at these positions; the band is ± one standard deviation."

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for (label, data), (colour, dash) in zip(datasets.items(), SERIES, strict=False):
            x, mean = _steps(data, "mean_alpha")
            _, sd = _steps(data, "sd_alpha")
            axes.fill_between(x, np.maximum(mean - sd, 0), np.minimum(mean + sd, 1), color=colour, alpha=0.2, lw=0)
            axes.plot(x, mean, color=colour, ls=dash, label=legible(label))
        axes.set(ylim=(-0.02, 1.02), ylabel="α")
        _position_axis(axes, datasets)
        legend(axes, datasets)

    empty = not any(_has(data, "mean_alpha") for data in datasets.values())
    return as_plot("alpha-position", title, caption, draw, "No mixed token: there is no α to show." if empty else "")


def divergence_by_position(datasets: Datasets) -> Plot:
    """JS divergence and share of fallback tokens along a completion, in two panels."""
    caption = (
        "Above: how far apart the two models are. Below: tokens that the teacher drew alone, for want of common ground."
    )

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for (label, data), (colour, dash) in zip(datasets.items(), SERIES, strict=False):
            for axes, name, scale in ((upper, "mean_js", 1), (lower, "fallback_rate", 100)):
                x, y = _steps(data, name)
                axes.plot(x, y * scale, color=colour, ls=dash, label=legible(label))
        upper.set(ylabel="mean JS (nats)", ylim=(0, None))
        lower.set(ylabel="fallback (%)", ylim=(0, None))
        _position_axis(lower, datasets)
        legend(upper, datasets)

    empty = not any(_has(data, "mean_js") or _has(data, "fallback_rate") for data in datasets.values())
    note = "No token: nothing to show by position." if empty else ""
    return as_plot("divergence", "JS and fallback rate by position", caption, draw, note, height=1.4)


def lengths(datasets: Datasets) -> Plot:
    """Histogram of completion lengths by finish reason."""
    caption = "The key gives the share that ended so: `eos` and `stop` ended by themselves, `length` was cut."
    totals = {label: sum(_total(part) for part in data.num_tokens.values()) for label, data in datasets.items()}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for (label, data), (colour, _) in zip(datasets.items(), SERIES, strict=False):
            for (reason, part), dash in zip(data.num_tokens.items(), DASHES, strict=False):
                if total := _total(part):
                    share = f"{reason} {100 * total / totals[label]:.3g} % ({total:,})"
                    text = legible(share if len(datasets) == 1 else f"{label}: {share}")
                    y = 100 * np.asarray(part.counts) / totals[label]
                    axes.stairs(y, part.edges, color=colour, ls=dash, lw=1.4, label=text)
        axes.set(xlabel="length (tokens)", ylabel="completions (%)", ylim=(0, None))
        handles, texts = axes.get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper left", ncols=min(2, len(handles)))

    note = "" if any(totals.values()) else "No completion: there are no lengths to show."
    return as_plot("lengths", "EOS and lengths", caption, draw, note)


def correctness(datasets: Datasets) -> Plot:
    """Share of right answers by the completion's mean α, with Wilson's 95 % interval."""
    caption = (
        "Points: share of right answers with its 95 % interval (Wilson). Below: how many completions stand behind it."
    )
    judged = {label: data.correctness for label, data in datasets.items() if data.correctness is not None}

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        for i, (label, found) in enumerate(judged.items()):
            colour, dash = SERIES[list(datasets).index(label)]
            edges, n, k = (np.asarray(each, dtype=float) for each in (found.edges, found.num_judged, found.num_correct))
            some = n > 0
            low, high = _wilson(k[some], n[some])
            share = k[some] / n[some]
            centre = (edges[:-1] + (0.5 + 0.16 * i) * np.diff(edges))[some]
            errors = 100 * np.maximum([share - low, high - share], 0)
            counts = f"{int(k.sum())} of {int(n.sum())} right"
            text = legible(counts if len(datasets) == 1 else f"{label}: {counts}")
            upper.errorbar(centre, 100 * share, errors, color=colour, fmt="os"[i], ms=4, elinewidth=1.2, label=text)
            lower.stairs(n, edges, color=colour, ls=dash, fill=i == 0, alpha=0.5 if i == 0 else 1)
        upper.set(ylim=(-4, 104), ylabel="right (%)")
        lower.set(ylabel="judged", xlabel="mean α of the completion", ylim=(0, None))
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper left", ncols=2)

    note = "" if any(sum(found.num_judged) for found in judged.values()) else "No final answer was judged."
    return as_plot("correctness", "Correctness of q* by mean α", caption, draw, note, height=1.4)


def speed(speeds: Speeds) -> Plot:
    """Tokens per second over the engines' time."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        longest = max(points[-1][0] for points in speeds.values() if points)
        unit, seconds = next((u for u in (("h", 3600), ("min", 60)) if longest >= 3 * u[1]), ("s", 1))
        for (label, points), (colour, dash) in zip(speeds.items(), SERIES, strict=False):
            if points:
                ends, rates = np.asarray(points, dtype=float).T
                x = np.concatenate([[0.0], np.repeat(ends, 2)[:-1]]) / seconds
                axes.plot(x, np.repeat(rates, 2), color=colour, ls=dash, label=legible(label))
        axes.set(xlabel=f"engine time ({unit})", ylabel="tokens/s", ylim=(0, None))
        legend(axes, speeds)

    note = "" if any(speeds.values()) else "No speed was recorded."
    return as_plot("speed", "Tokens per second", "Completion tokens, over the time that the engines ran.", draw, note)


def _histogram_plot(
    name: str,
    title: str,
    caption: str,
    histograms: Mapping[str, Histogram],
    xlabel: str,
    mark: float | None = None,  # a log axis, with a line at this value
    what: str = "mixed token",
    limit_text: str = "limit ",
) -> Plot:
    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = figure.subplots()
        for (label, histogram), (colour, dash) in zip(histograms.items(), SERIES, strict=False):
            y = 100 * np.asarray(histogram.counts) / max(_total(histogram), 1)
            if colour == FIRST:
                axes.stairs(y, histogram.edges, fill=True, color=colour, alpha=0.3, lw=0)
            axes.stairs(y, histogram.edges, color=colour, ls=dash, lw=1.4, label=legible(label))
        axes.set(xlabel=xlabel, ylabel=f"{what}s (%)", ylim=(0, None))
        if mark is not None:
            axes.axvline(math.log10(mark), color=LIMIT, ls=":", lw=1.4)
            text = f" {limit_text}{mark:g}" if limit_text else ""
            axes.text(math.log10(mark), 1, text, transform=axes.get_xaxis_transform(), va="bottom", ha="center", size=8)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
            axes.xaxis.set_major_formatter(lambda value, _: f"{10**value:.4g}")
        legend(axes, histograms)

    note = "" if any(map(_total, histograms.values())) else f"No {what} in this dataset: nothing to show."
    return as_plot(name, title, caption, draw, note)


def _each(datasets: Datasets, name: str) -> dict[str, Histogram]:
    return {label: getattr(data, name) for label, data in datasets.items()}


def _total(histogram: Histogram) -> int:
    return sum(histogram.counts)


def _has(data: Aggregates, name: str) -> bool:
    return any(value is not None for value in getattr(data.by_position, name))


def _steps(data: Aggregates, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of each range, counted from 1, with its value at both; NaN breaks the line."""
    ranges = data.by_position
    x = np.stack([np.asarray(ranges.starts, dtype=float) + 1, np.asarray(ranges.stops, dtype=float) + 1], axis=1)
    return x.ravel(), np.repeat(np.asarray(getattr(ranges, name), dtype=float), 2)


def _position_axis(axes: Axes, datasets: Datasets) -> None:
    ranges = [data.by_position for data in datasets.values() if data.by_position.starts]
    axes.set_xlabel("position in the completion (token, from 1)")
    if any(r.stops[-1] - r.starts[-1] >= LOG_AXIS_FROM * (r.stops[0] - r.starts[0]) for r in ranges):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.tick_params(axis="x", which="minor", labelbottom=False)  # they would overlap


def _wilson(num_correct: np.ndarray, num_judged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of Wilson's 95 % score interval of a share."""
    share, z2 = num_correct / num_judged, Z_95**2
    centre = (share + z2 / (2 * num_judged)) / (1 + z2 / num_judged)
    half = Z_95 / (1 + z2 / num_judged) * np.sqrt(share * (1 - share) / num_judged + z2 / (4 * num_judged**2))
    return centre - half, centre + half
