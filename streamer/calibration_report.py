"""What a calibration found, to read: for programs, as a table, as options to paste, as a page with pictures.

The pictures need matplotlib, of the extra `train`.
"""

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from streamer.calibration import HIGHEST, Finding
from streamer.room import Room
from streamer.settings import Settings
from streamer.thresholds import Floats, logit, score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = dict[str, Any]
WEEK_H = 168.0
SMALLEST = 0.01  # a rate that is told; less is none
TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)  # scores on the axis of logits
COLUMNS = ("rule", "now", "a week (9 to 1)", "fired", "proposed (9 to 1)", "fired", "recall", "clips")
NOTE = (
    "A week: false alarms at the present threshold. Fired: starts in what was heard. 9 to 1: so sure it is that the "
    "true figure lies between, if weeks to come are like what was heard. Recall: share of the labelled clips that "
    "start it, each heard to its end and no further."
)
STYLE = """body{font:15px sans-serif;max-width:70em;margin:2em auto}td,th{padding:.2em .7em;text-align:right}
td:first-child{text-align:left}pre{white-space:pre-wrap}img{max-width:100%}"""


def headline(room: Room, per_hour: float, far: float) -> str:
    """What was heard, what is wished, and how far that is."""
    sources = len({each.source for each in room.stretches})
    windows = sum(len(each.end) for each in room.stretches)
    wished, unit = (per_hour, "an hour") if per_hour >= 1 else (WEEK_H * per_hour, "a week")
    text = (
        f"Heard {room.hours:.2f} h from {sources} source{'s' if sources > 1 else ''}, {windows} windows; "
        f"wished: of each threshold at most {figure(wished)} false alarm{'' if wished == 1 else 's'} {unit}."
    )
    times = 1 / (per_hour * room.hours)
    if times > far:
        text += (
            f"\nThat is {times:.0f} times as long as was heard: these thresholds are guesses on the safe side; "
            f"{figure(1 / per_hour / far)} h tell more."
        )
    return text


def table(findings: Sequence[Finding]) -> str:
    """Text of fixed width, then what to know before it is used."""
    rows = [COLUMNS, *map(_cells, findings)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = []
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]))
    return "\n".join([*lines, *_remarks(findings)])


def _remarks(findings: Sequence[Finding]) -> Iterator[str]:
    """Why some have no proposal, and what lower thresholds rest on."""
    for why in dict.fromkeys(each.why for each in findings if each.why):
        yield f"{_names(each for each in findings if each.why == why)}: no threshold proposed; {why}"
    if lower := [each for each in findings if each.proposed and each.proposed.onset < each.dial.present.onset]:
        yield f"{_names(lower)}: lower than now; use that only if all that sounds there was heard: talk, music, cooking"


def _names(findings: Iterable[Finding]) -> str:
    return ", ".join(map(_name, findings))


def _name(finding: Finding) -> str:
    return finding.dial.rule if finding.dial.name is None else f"{finding.dial.rule}: {finding.dial.name}"


def figure(value: float) -> str:
    """Two digits of a rate that is known no better."""
    if 0 < value < SMALLEST:
        return f"<{SMALLEST:g}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _cells(finding: Finding) -> tuple[str, ...]:
    present, proposed = finding.dial.present, finding.proposed
    recalls = [finding.recall(present.onset), finding.recall(proposed.onset) if proposed else None]
    expected = finding.present_per_h and [figure(WEEK_H * each) for each in finding.present_per_h]
    between = finding.between and " to ".join(f"{min(each, HIGHEST):.4g}" for each in finding.between)
    return (
        _name(finding),
        f"{present.onset:g}",
        f"{expected[0]} ({expected[1]} to {expected[2]})" if expected else "-",
        str(finding.fired[0]),
        f"{proposed.onset:g} ({between})" if proposed else "-",
        "-" if finding.fired[1] is None else str(finding.fired[1]),
        " -> ".join("-" if each is None else f"{each:.2f}" for each in recalls) if len(finding.clips) else "-",
        str(len(finding.clips)),
    )


# -- for programs ------------------------------------------------------------------------------------------------------


def fragment(findings: Sequence[Finding], settings: Settings, stream: str) -> Record:
    """Options to paste: a stream's own where there are other streams, which hear other rooms."""
    rules: Record = {}
    for finding in findings:
        if finding.proposed:
            options = rules.setdefault(finding.dial.rule, {})
            if finding.dial.name is None:
                options |= {"onset_threshold": finding.proposed.onset, "offset_threshold": finding.proposed.offset}
            else:
                own = {"onset": finding.proposed.onset, "offset": finding.proposed.offset}
                kept = {name: each.model_dump() for name, each in finding.dial.config.thresholds.items()}
                options["thresholds"] = {**kept, **options.get("thresholds", {}), finding.dial.name: own}
    changes = settings.streams[stream].rules
    is_shared = len(settings.streams) > 1 or any(isinstance(changes.get(rule), dict) for rule in rules)
    return {"streams": {stream: {"rules": rules}}} if is_shared else {"rules": rules}


def record(finding: Finding) -> Record:
    """A finding for programs; rates are a week's."""
    dial, expected = finding.dial, finding.present_per_h
    return {
        "rule": dial.rule,
        "label": dial.name,
        "present": asdict(dial.present),
        "proposed": asdict(finding.proposed) if finding.proposed else None,
        "between": [round(each, 4) for each in finding.between] if finding.between else None,
        "present_per_week": [round(WEEK_H * each, 3) for each in expected] if expected else None,
        "fired": {"present": finding.fired[0], "proposed": finding.fired[1]},
        "clips": len(finding.clips),
        "recall": {
            "present": finding.recall(dial.present.onset),
            "proposed": finding.recall(finding.proposed.onset) if finding.proposed else None,
        },
        "candidates": [
            {"file": each.span.source, "from_s": each.span.from_s, "to_s": each.span.to_s,
             "score": round(each.score, 4), "time": each.time and each.time.isoformat(timespec="seconds")}
            for each in finding.candidates
        ],
        "if_real": finding.if_real and round(finding.if_real, 4),
        "why": finding.why or None,
    }  # fmt: skip


def summary(room: Room, per_hour: float, far: float, options: Record) -> Record:
    """What was heard and wished, and options to paste."""
    times = 1 / (per_hour * room.hours)
    return {"heard_h": round(room.hours, 4), "false_alarms_per_week": WEEK_H * per_hour,
            "extrapolated": round(times, 2), "is_far": times > far, "config": options}  # fmt: skip


# -- the page ----------------------------------------------------------------------------------------------------------


def html(said: str, room: Room, findings: Sequence[Finding], per_hour: float) -> str:
    """One file that needs no other.

    Raises:
        ImportError: matplotlib is not installed.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(each)) + "</tr>" for each in findings)
    parts = [_section(each, room, per_hour) for each in findings]
    return (
        f"<!DOCTYPE html><meta charset=utf-8><title>streamer calibrate</title><style>{STYLE}</style>"
        f"<h1>Thresholds</h1><pre>{escape(said)}</pre><table><tr>{head}</tr>{rows}</table><p>{escape(NOTE)}</p>"
        + "".join(f"<p>{escape(each)}.</p>" for each in _remarks(findings))
        + "".join(parts)
    )


def _section(finding: Finding, room: Room, per_hour: float) -> str:
    lines = "".join(
        f"<li>{each.score:.4f} &nbsp; {escape(each.span.source)}:{each.span.from_s:.1f}-{each.span.to_s:.1f}"
        f"{f' &nbsp; {each.time.astimezone():%F %T}' if each.time else ''}</li>"
        for each in finding.candidates
    )
    real = f"<p>Were none of these a false alarm, {finding.if_real:.3f} would do.</p>" if finding.if_real else ""
    why = f"<p>No threshold proposed: {escape(finding.why)}.</p>" if finding.why else ""
    picture = base64.b64encode(_picture(finding, room, per_hour)).decode()
    return (
        f"<h2>{escape(_name(finding))}</h2>{why}<img alt='scores and rates' src='data:image/png;base64,{picture}'>"
        f"<p>The loudest sounds:</p><ol>{lines}</ol>{real}"
    )


def _picture(finding: Finding, room: Room, per_hour: float) -> bytes:
    """Scores of sounds and clips; how often levels are reached; clips missed over false alarms (PNG)."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 2.8), dpi=90, layout="constrained")
    sounds, rates, misses = picture.subplots(1, 3)
    low = float(min([*finding.peaks, *_found(finding), logit(finding.dial.present.onset)], default=-7.0))
    axis = np.linspace(low, float(logit(HIGHEST)), 200)
    _histogram(sounds, finding, axis)
    expected = [_rate(finding, room, float(level)) * WEEK_H for level in axis]
    steps = np.sort(finding.peaks)[::-1]
    rates.step(steps, np.arange(1, len(steps) + 1) / room.hours * WEEK_H, where="post", label="heard")
    rates.plot(axis, expected, "--", label="expected")
    rates.axhline(per_hour * WEEK_H, color="grey", lw=0.8)
    rates.set(yscale="log", ylim=(per_hour * WEEK_H / 30, None), title="a week at or over the score")
    for axes in (sounds, rates):
        axes.set_xticks(logit(TICKS), [f"{each:g}" for each in TICKS], rotation=60, fontsize=7)
        axes.set_xlim(axis[0], axis[-1])
        axes.axvline(float(logit(finding.dial.present.onset)), color="tab:orange", label="now")
        if finding.proposed:
            axes.axvline(float(logit(finding.proposed.onset)), color="tab:green", label="proposed")
        axes.legend(fontsize=7)
    _misses(misses, finding, axis, expected)
    buffer = BytesIO()
    picture.savefig(buffer, format="png")
    return buffer.getvalue()


def _histogram(axes: "Axes", finding: Finding, axis: Any) -> None:
    bins = list(np.linspace(axis[0], axis[-1], 40))
    axes.hist(finding.peaks, bins, alpha=0.7, label="the room's sounds")
    if len(_found(finding)):
        axes.hist(np.minimum(_found(finding), axis[-1]), bins, alpha=0.7, label="labelled clips")
    axes.set(yscale="log", title="scores that would start it")


def _found(finding: Finding) -> Floats:
    """The labelled clips' levels but for those that start it at no threshold: too short, or barred throughout."""
    return finding.clips[np.isfinite(finding.clips)]


def _rate(finding: Finding, room: Room, level: float) -> float:
    """Expected an hour: what was counted, and over the tail's begin what was fitted."""
    if finding.tail and level >= finding.tail.floor:
        return finding.tail.rate(level)
    return float((finding.peaks >= level).sum() / room.hours)


def _misses(axes: "Axes", finding: Finding, axis: Any, expected: Sequence[float]) -> None:
    """The trade-off (DET): clips missed against false alarms a week, each threshold a point."""
    axes.set(title="clips missed", xlabel="false alarms a week", ylabel="share of the labelled clips")
    if not len(finding.clips):
        axes.text(0.5, 0.5, "no labelled clips", ha="center", transform=axes.transAxes)
        return
    missed = [1 - (finding.recall(score(float(level))) or 0.0) for level in axis]
    axes.plot(np.maximum(expected, 1e-4), missed)
    marks = (("now", "tab:orange", finding.dial.present), ("proposed", "tab:green", finding.proposed))
    for name, colour, pair in marks:
        if pair:
            at = int(np.searchsorted(axis, float(logit(pair.onset))).clip(0, len(axis) - 1))
            axes.plot(max(expected[at], 1e-4), missed[at], "o", color=colour, label=name)
    axes.set(xscale="log", ylim=(-0.02, 1.02))
    axes.legend(fontsize=7)
