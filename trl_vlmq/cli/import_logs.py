# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""`trl-vlmq import`: a team's own logs -> a Parquet file of episodes."""

import argparse

from trl_vlmq.hub import hub_errors
from trl_vlmq.importing import FieldMapping, import_logs
from trl_vlmq.storage import load_episodes

from .errors import user_errors


_EPILOG = """
One line of a log is a turn, an episode with a list of steps, or a conversation. Images are paths or base64. What the
fields are called is told by a mapping file in YAML, for example:

  fields: {episode_id: run, turn: step, prompt: user_text, images: screenshot, completion: reply, success: won}

Episodes with problems are left out; a report says which, why and in which line, and is written beside the output as
OUTPUT.report.json. The guide is docs/own_logs.md.
"""


def main(argv: list[str]) -> None:
    """
    Args:
        argv (`list[str]`):
            The arguments after `trl-vlmq import`.
    """
    args = _parser().parse_args(argv)
    with user_errors(OSError, ValueError):
        mapping = FieldMapping.from_yaml(args.mapping) if args.mapping is not None else None
        report = import_logs(
            args.logs,
            args.output,
            mapping=mapping,
            image_root=args.images,
            strict=args.strict,
            overwrite=args.overwrite,
        )
        print(report.to_text())
        print("Valid    yes: every row of the file was read back and checked")
        if args.push_to_hub is not None:
            _push(args.output, args.push_to_hub)
            print(f"Pushed   {args.push_to_hub}")


def _push(path: str, repo: str) -> None:
    kept = f"The episodes lie whole in {path}; load_episodes({path!r}).push_to_hub({repo!r}) uploads them."
    with hub_errors("Uploading the episodes to", repo, kept=kept):
        load_episodes(path).push_to_hub(repo, private=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trl-vlmq import",
        description="Turn logs of your own (JSONL and images) into a Parquet file of episodes to train on.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("logs", nargs="+", metavar="LOG", help="JSONL file, plain or .gz")
    parser.add_argument("--output", required=True, metavar="FILE", help="Parquet file to write, e.g. episodes.parquet")
    parser.add_argument("--mapping", metavar="FILE", help="YAML file that says what the logs call their fields")
    parser.add_argument(
        "--images", metavar="FOLDER", help="where relative image paths start (default: the folder of each log)"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first problem instead of reporting it")
    parser.add_argument("--overwrite", action="store_true", help="replace an output that is there already")
    parser.add_argument(
        "--push_to_hub", metavar="USER/NAME", help="also upload the episodes as a dataset; a new one is private"
    )
    return parser
