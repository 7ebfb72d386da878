# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""
What AFSFT costs beside SFT: head, whole steps, segments, growth, play and replay, side by side in one run.

    make bench         # about three minutes of CPU time
    make bench-full    # larger heads, more rounds, V up to 257k

Everything is CPU time of this process on one thread, variants in turn, medians with the fastest and the slowest. Each variant is
checked before it is timed: gradients of the head against those of the formulas, losses of all trainers on the same turns
against each other, batched episodes against those played one by one. Writes `bench.md`, `bench.json` and `bench.png`.

TRL's SFTTrainer projects every position on a CPU, prompts included; on a GPU with Liger or its fused loss it does not.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import trl
from head import Head, compare
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measuring import Timing, growth_exponent, take_turns
from playing import make_player, seconds_a_segment, seconds_of_epochs
from training_steps import TURNS, Task, make_tasks, make_training


@dataclass
class Part:
    """A table: rows under columns, and the ratios in it that the goals speak of."""

    title: str
    note: str
    columns: list[str]
    rows: list[list]
    goals: list[tuple[str, str, float]]

    def markdown(self) -> str:
        lines = [
            f"## {self.title}",
            "",
            self.note,
            "",
            "| " + " | ".join(self.columns) + " |",
            "|" + "---|" * len(self.columns),
        ]
        cells = [[f"{x:.3g}" if isinstance(x, float) else str(x) for x in row] for row in self.rows]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells), ""])


def head_part(n: int, d: int, vocabulary: int, rounds: int) -> Part:
    head, rows = Head(n, d, vocabulary), []
    for trained in (False, True):
        for baseline in ("target", "online"):
            rows += compare(head, trained, baseline, rounds)
    ours = [row for row in rows if row.variant == "streamed"]
    goals = [("streamed head / naive, time", "<= 0.55", max(row.by_naive for row in ours))]
    goals += [
        (
            f"streamed head / cross-entropy, trained, {row.baseline}",
            "<= 1.10" if row.baseline == "target" else "<= 1.35",
            row.by_cross_entropy,
        )
        for row in ours
        if row.trained
    ]
    goals += [
        ("streamed head / naive, memory, frozen", "<= 0.05", max(row.peak_by_naive for row in ours if not row.trained))
    ]
    return Part(
        "Head", f"N = {n}, d = {d}, V = {vocabulary:,}, float32, kept share 0.5.",
        ["head", "baseline", "variant", "CPU seconds", "/ naive", "/ cross-entropy", "peak MB", "/ naive (memory)"],
        [["trained" if r.trained else "frozen", r.baseline, r.variant, str(r.seconds), r.by_naive, r.by_cross_entropy, r.peak_bytes / 1e6, r.peak_by_naive] for r in rows],
        goals,
    )  # fmt: skip


def steps_part(tasks: list[Task], rounds: int) -> Part:
    rows, goals = [], []
    for task in tasks:
        names = ["stock SFT", "SFT", "AFSFT"] + (["AFSFT, target"] if "V =" in task.name else [])
        trainings = {name: make_training(task, name) for name in names}
        found = {name: training.examine(task.dataset) for name, training in trainings.items()}
        expected = found["SFT"][0]
        assert all(abs(loss - expected) < 1e-3 * expected for loss, _ in found.values()), found
        times = take_turns({name: training.seconds_per_turn for name, training in trainings.items()}, rounds)
        sft, stock = times["SFT"].median, times["stock SFT"].median
        for name, timing in times.items():
            memory = found[name][1] / found["stock SFT"][1]
            rows.append(
                [
                    task.name,
                    name,
                    _milliseconds(timing),
                    timing.median / sft,
                    timing.median / stock,
                    found[name][1] / 1e6,
                    memory,
                ]
            )
        for name in names[2:]:
            limit = "<= 1.10" if "end" in task.name else "<= 1.20"
            goals.append((f"{name} step / SFT step, {task.name}", limit, times[name].median / sft))
            goals.append((f"{name} step / stock SFT step, {task.name}", "<= 0.70", times[name].median / stock))
            goals.append(
                (
                    f"peak memory of an {name} step / stock SFT, {task.name}",
                    "<= 0.50",
                    found[name][1] / found["stock SFT"][1],
                )
            )
    return Part(
        "Whole steps", f"{TURNS} turns a batch, K = 4, LoRA of rank 16, float32, kept share 1. Memory: tensors of a step beyond weights.",
        ["logs", "trainer", "CPU milliseconds a turn", "/ SFT", "/ stock SFT", "peak MB", "/ stock SFT (memory)"], rows, goals,
    )  # fmt: skip


def segments_part(task: Task, rounds: int) -> Part:
    trainings = {length: make_training(task, "AFSFT", length) for length in (1, 2, 4, 8)}
    times = take_turns({length: training.seconds_per_turn for length, training in trainings.items()}, rounds)
    rows = [[length, _milliseconds(timing), timing.median / times[1].median] for length, timing in times.items()]
    return Part(
        "Segments",
        f"AFSFT on {task.name}, {TURNS} turns a batch.",
        ["K", "CPU milliseconds a turn", "/ K = 1"],
        rows,
        [],
    )


def growth_part(vocabularies: list[int], rounds: int) -> Part:
    rows, goals = [], []
    sweeps = {
        "V": (vocabularies, lambda size: Head(64, 128, size)),
        "d": ([64, 256, 1024], lambda size: Head(64, size, 8192)),
        "N": ([32, 128, 512], lambda size: Head(size, 128, 8192)),
    }
    for name, (sizes, make) in sweeps.items():
        heads = {size: make(size) for size in sizes}
        run = {
            size: partial(lambda head: head.run(head.streamed, True, "online")[0], head)
            for size, head in heads.items()
        }
        times = take_turns(run, rounds)
        exponent = growth_exponent(sizes, [times[size].median for size in sizes])
        rows += [[name, size, str(timing), exponent] for size, timing in times.items()]
        goals.append((f"streamed head, cost against {name}: exponent", "<= 1.05", exponent))
    return Part("Growth of the streamed head", "N = 64, d = 128, V = 8,192 but for what varies; trained head, baseline online.",
                ["varies", "size", "CPU seconds", "fitted exponent"], rows, goals)  # fmt: skip


def play_part(task: Task, episodes: int, rounds: int) -> Part:
    play = make_player(episodes)
    assert play(1)[1] == play(8)[1], "batched play says something else"
    times = take_turns({n: partial(lambda n: play(n)[0], n) for n in (1, 8)}, rounds)
    rows = [
        [f"play, {n} at once", _milliseconds(timing), times[1].median / timing.median] for n, timing in times.items()
    ]
    goals = [("rollouts, 8 environments / one at a time", ">= 4", times[1].median / times[8].median)]
    ids = task.dataset["episode_id"]
    few = set(sorted(set(ids))[: len(set(ids)) // 4])
    quarter = task.dataset.select([row for row, episode in enumerate(ids) if episode in few])
    draws = take_turns(
        {"a quarter": partial(seconds_a_segment, quarter, 200), "all": partial(seconds_a_segment, task.dataset, 200)},
        rounds,
    )
    rows += [
        [f"a segment from {name} of the turns", _milliseconds(t), draws["a quarter"].median / t.median]
        for name, t in draws.items()
    ]
    first, second = seconds_of_epochs(quarter, 2)
    rows += [["first epoch", f"{1000 * first:.3g}", 1.0], ["second epoch", f"{1000 * second:.3g}", first / second]]
    goals.append(("second epoch / first epoch, frozen tower", "<= 0.75", second / first))
    return Part("Play, replay, pictures", "The embedded BabyAI model; 12 tokens an action.",
                ["what", "CPU milliseconds", "times as fast as the first"], rows, goals)  # fmt: skip


def _milliseconds(timing: Timing) -> str:
    return str(Timing(*(1000 * x for x in (timing.median, timing.low, timing.high))))


def goals_table(parts: dict[str, Part]) -> str:
    lines = ["| quantity | goal | found |", "|---|---|---|"]
    return "\n".join(
        [
            *lines,
            *(f"| {name} | {goal} | {found:.3g} |" for part in parts.values() for name, goal, found in part.goals),
            "",
        ]
    )


def draw(parts: dict[str, Part], path: Path) -> None:
    """Whole steps beside stock SFT, growth with size, and segments."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.5, 1, 0.8))
    colors = {"stock SFT": "#c9c2b4", "SFT": "#4878a8", "AFSFT": "#c8553d", "AFSFT, target": "#e5a88f"}
    places, labels, place = [], [], 0
    for logs in dict.fromkeys(row[0] for row in parts["steps"].rows):
        group = [row for row in parts["steps"].rows if row[0] == logs]
        for row in group:
            left.barh(place, row[4], color=colors[row[1]], label=row[1] if row[1] not in labels else None)
            left.annotate(
                f"{row[4]:.2f}", (row[4], place), textcoords="offset points", xytext=(3, 0), va="center", fontsize=8
            )
            labels.append(row[1])
            place -= 1
        places.append((place + 1 + (len(group) - 1) / 2, logs))
        place -= 0.6
    left.set_yticks([y for y, _ in places], [logs for _, logs in places])
    left.set(xlabel="CPU time of a turn / stock SFT's", title="whole steps")
    left.set_xlim(0, 1.25 * max(row[4] for row in parts["steps"].rows))
    left.legend(frameon=False, fontsize=8, loc="lower right")
    for name in ("V", "d", "N"):
        points = [(row[1], float(row[2].split()[0])) for row in parts["growth"].rows if row[0] == name]
        exponent = next(row[3] for row in parts["growth"].rows if row[0] == name)
        middle.loglog(*zip(*points, strict=True), marker="o", label=f"{name}: exponent {exponent:.2f}")
    middle.set(xlabel="size", ylabel="CPU seconds", title="the streamed head")
    middle.legend(frameon=False, fontsize=8)
    ratios = [(row[0], row[2]) for row in parts["segments"].rows]
    right.plot(*zip(*ratios, strict=True), marker="o", color="#c8553d")
    right.set_xscale("log", base=2)
    right.set_xticks([k for k, _ in ratios], [str(k) for k, _ in ratios])
    right.set(xlabel="turns a segment, K", ylabel="CPU time of a turn / K = 1", ylim=(0, 1.1), title="segments")
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument(
        "--rounds", type=int, help="measurements of each variant; by default 3, and 7 of the full form"
    )
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/bench"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    begun, full = time.process_time(), args.full
    tasks = make_tasks(400 if full else 40)
    rounds = args.rounds or (7 if full else 3)
    parts = {
        "steps": partial(steps_part, tasks, rounds),
        "growth": partial(growth_part, [1024, 4096, 16384, 65536] + ([257152] if full else []), rounds),
        "segments": partial(segments_part, tasks[0], rounds),
        "play": partial(play_part, tasks[0], 64 if full else 8, rounds),
        "head": partial(head_part, *((512, 576, 49280) if full else (128, 384, 32768)), rounds),
    }
    args.output_dir.mkdir(parents=True, exist_ok=True)
    done: dict[str, Part] = {}
    for name, measure in parts.items():  # written after each part, in case the next one fails
        done[name] = measure()
        machine = (
            f"{platform.machine()}, torch {torch.__version__}, trl {trl.__version__}, one thread, medians of {rounds} round(s) "
            f"(fastest to slowest), {time.process_time() - begun:.0f} CPU seconds"
        )
        tables = [part.markdown() for part in done.values()]
        (args.output_dir / "bench.md").write_text("\n".join([machine, "", "## Goals", "", goals_table(done), *tables]))
        found = {"machine": machine} | {name: asdict(part) for name, part in done.items()}
        (args.output_dir / "bench.json").write_text(json.dumps(found, indent=2))
    draw(done, args.output_dir / "bench.png")
    print((args.output_dir / "bench.md").read_text())


if __name__ == "__main__":
    main()
