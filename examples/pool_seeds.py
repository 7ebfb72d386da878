# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Several training seeds of an example as one result: table, difference with its interval, figure.

    for seed in 0 1 2; do
        accelerate launch examples/train_babyai.py --seed $seed --eval_episodes 1000 --output_dir outputs/seed$seed
    done
    python examples/pool_seeds.py outputs/seed0 outputs/seed1 outputs/seed2

A seed may lie in several folders, one for each of its `--objectives`; policies that not every seed has are left out.
The folders `outputs/seed*/online` of runs with `--online` are pooled in the same way.

The held-out episodes are the same for every seed. So the interval of a difference is a paired bootstrap over episodes,
each with its mean over the seeds; how much training seeds differ is told by the rows of each seed beside it.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from trl_vlmq import EvaluationResult
from trl_vlmq.diagnostics import comparison_table, environment_table, plot_comparison, plot_environments
from trl_vlmq.statistics import paired_bootstrap


# What is compared with what, and how it acts.
PAIRS = (("afsft", "sft"), ("online", "offline"))
HOW = ("greedy", "sampled")


def read_outcomes(folder: Path) -> dict[str, EvaluationResult]:
    """Name of each policy -> its episodes."""
    arrays = np.load(folder / "outcomes.npz")
    fields: dict[str, dict[str, np.ndarray]] = {}
    for key in arrays.files:
        name, _, field = key.rpartition("|")
        fields.setdefault(name, {})[field] = arrays[key]
    return {name: EvaluationResult(**values) for name, values in fields.items()}


def pool(results: list[EvaluationResult]) -> EvaluationResult:
    """All episodes of several evaluations as one."""
    return EvaluationResult(
        *(np.concatenate(arrays) for arrays in zip(*(vars(r).values() for r in results), strict=True))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="output folders of an example")
    parser.add_argument("--figure", type=Path, help="figure to write")
    args = parser.parse_args()
    seeds: dict[int, dict[str, EvaluationResult]] = {}
    curves, logs, settings = {}, {}, set()
    for folder in args.folders:
        summary = json.loads((folder / "results.json").read_text())
        seed = summary["seed"]
        seeds.setdefault(seed, {}).update(read_outcomes(folder))
        curves |= {f"{name} ({seed})": points for name, points in summary["curves"].items()}
        logs[seed] = summary["logs"]["all"]["success"]
        settings.add((summary["task"], summary["steps"]))
    if len(settings) > 1:
        parser.error(f"these are different experiments: {settings}")
    ((task, _),) = settings
    names = list(dict.fromkeys(name for outcomes in seeds.values() for name in outcomes))
    names = [name for name in names if all(name in outcomes for outcomes in seeds.values())]
    if not names:
        parser.error("these seeds have no policy in common: give the folders of the same objectives for each")
    pooled = {name: pool([outcomes[name] for outcomes in seeds.values()]) for name in names}

    print(f"{task}, seeds {', '.join(map(str, seeds))}\n\n{comparison_table(pooled)}")
    if any(len(result.by_environment()) > 1 for result in pooled.values()):
        print(f"\n{environment_table(pooled)}")
        if args.figure is not None:
            plot_environments(args.figure.with_stem(f"{args.figure.stem}_environments"), pooled, task)
    print(f"\nsuccess in the logs: {', '.join(f'{rate:.1%}' for rate in logs.values())}")
    pairs = [pair for pair in PAIRS if {f"{name} ({how})" for name in pair for how in HOW} <= set(names)]
    for better, base in pairs:
        for how in HOW:
            one, other = ([o[f"{name} ({how})"].success for o in seeds.values()] for name in (better, base))
            difference, low, high = paired_bootstrap(np.mean(one, axis=0), np.mean(other, axis=0))
            each = ", ".join(f"{a.mean():.1%} - {s.mean():.1%}" for a, s in zip(one, other, strict=True))
            print(
                f"{better} - {base}, {how}: {difference:+.1%} (paired bootstrap 95%: {low:+.1%} to {high:+.1%}); "
                f"by seed: {each}"
            )
    if args.figure is not None:
        online = [points[0][0] for name, points in curves.items() if name.startswith("online")]
        plot_comparison(
            args.figure, pooled, curves, title=f"{task}, {len(seeds)} training seed(s)",
            switch_on=max(online, default=None), switch_label="online from here",
        )  # fmt: skip
        print(f"Figure: {args.figure}")


if __name__ == "__main__":
    main()
