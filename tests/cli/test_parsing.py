# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Arguments: flags, YAML files, and the help."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from trl_vlmq import AFSFTConfig
from trl_vlmq.cli import collect, evaluate, train


@pytest.fixture
def parsed(run, monkeypatch):
    """`parsed(line)`: the arguments that `trl-vlmq train` would work with, as one dict."""
    seen = []
    monkeypatch.setattr(train, "train", lambda *arguments: seen.append(arguments))

    def parse(line: str, *more: str) -> dict:
        code, _, err = run(f"train {line}", *more)
        assert code == 0, err
        merged = {}
        for part in seen.pop():
            merged |= {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.init}
        return merged

    return parse


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_a_yaml_file_says_the_same_as_flags(parsed, yaml_file):
    file = yaml_file(
        "dataset: e.parquet\noutput_dir: out\nlearning_rate: 5e-4\nmax_steps: 7\nuse_peft: false\nbf16: false\n"
        "env: hallway:Hallway-v0\nenv_kwargs: {max_steps: 3}\nlora_target_modules: [q_proj, v_proj]\n"
        "filter_beta: -.inf\nlr_scheduler_type: cosine\n"
    )
    flags = parsed(
        "--dataset e.parquet --output_dir out --learning_rate 5e-4 --max_steps 7 --no_use_peft --bf16 false "
        "--env hallway:Hallway-v0 --lora_target_modules q_proj v_proj --filter_beta=-inf --lr_scheduler_type cosine "
        "--env_kwargs",
        json.dumps({"max_steps": 3}),
    )
    assert parsed("--config", file) == flags == parsed(f"--config={file}")
    assert flags["learning_rate"] == 5e-4 and flags["use_peft"] is False and flags["filter_beta"] == float("-inf")
    assert flags["lora_target_modules"] == ["q_proj", "v_proj"]


def test_a_flag_beats_the_yaml_file(parsed, yaml_file):
    file = yaml_file("dataset: e.parquet\noutput-dir: out\nmax_steps: 7\n")
    arguments = parsed("--max_steps 9 --config", file)
    assert (arguments["max_steps"], arguments["output_dir"]) == (9, "out")


def test_null_in_the_yaml_file_is_none(parsed, yaml_file):
    file = yaml_file("dataset: e.parquet\noutput_dir: out\nfilter_keep_confident: null\n")
    assert parsed("--config", file)["filter_keep_confident"] is None
    assert AFSFTConfig(output_dir="out").filter_keep_confident is not None


def test_sft_has_no_critic_and_the_defaults_are_those_of_the_config(parsed):
    arguments = parsed("--dataset e.parquet --output_dir out --actor_objective sft")
    assert arguments["critic_coef"] == 0
    config = AFSFTConfig(output_dir="out", use_cpu=arguments["use_cpu"], bf16=arguments["bf16"])
    names = {field.name for field in dataclasses.fields(AFSFTConfig) if field.init}
    assert {name for name in names if getattr(config, name) != arguments[name]} == {"critic_coef", "actor_objective"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "unknown key 'learning_rat'; did you mean learning_rate"),
        ("max_steps: many", "max_steps.*invalid int value: 'many'"),
        ("max_steps: 1.5", "max_steps.*invalid int value"),
        ("max_steps: [1, 2]", "unknown argument '2'"),
        ("gamma: 3", "gamma=3.0 lies outside"),
        ("actor_objective: afst", "actor_objective.*invalid choice"),
        ("env_kwargs: {", "is not valid YAML"),
        ("- a", "must hold lines of the form"),
    ],
)
def test_a_mistake_in_the_yaml_file_is_named_in_one_line(run, yaml_file, text, message):
    code, out, err = run("train --dataset e.parquet --output_dir out --config", yaml_file(text))
    assert code == (1 if "YAML" in message or "lines" in message else 2)
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert re.search(message, err)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train", "required: --dataset"),
        ("train --dataset e.parquet", "required: --output_dir"),
        ("train --dataset e.parquet --output_dir out --learn 1", "unknown argument '--learn'"),
        ("train --dataset e.parquet --output_dir out --eval_share 1", "eval_share"),
        ("collect --env x --output o.parquet", "either --behaviors or --model"),
        ("collect --env x --output o.parquet --behaviors random --model m", "either --behaviors or --model"),
        ("collect --env x --output o.parquet --behaviors random --episodes 0", "--episodes must be at least 1"),
        ("collect --env x --output o.parquet --behaviors random --history -1", "--history must be at least 0"),
        ("collect --env x --output o.parquet --behaviors random extra", "unknown argument 'extra'"),
        ("evaluate", "required: --env"),
        ("evaluate --env x --model a a", "--model names something twice"),
        ("evaluate --env x --config", "--config: expected one argument"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(run, line, message):
    code, out, err = run(line)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


@pytest.mark.parametrize("module", [collect, evaluate, train])
def test_help_explains_every_argument_once_and_ends_with_examples(run, module):
    name = module.__name__.rpartition(".")[2]
    code, text, _ = run(f"{name} --help_all" if module is train else f"{name} --help")
    assert code == 0
    classes = [
        value for value in vars(module).values() if dataclasses.is_dataclass(value) and "Arguments" in str(value)
    ]
    for field in (field for cls in classes for field in dataclasses.fields(cls) if field.init):
        assert len(re.findall(rf"^  --{field.name}\b(?!-)", text, re.MULTILINE)) == 1, field.name
    assert "examples:\n  trl-vlmq" in text


def test_our_arguments_come_first_and_the_inherited_ones_do_not_drown_them(run):
    text = run("train --help")[1]
    firsts = ("dataset", "env", "lora_r", "actor_objective", "output_dir")
    order = [text.index(f"\n  --{name} ") for name in firsts]
    assert order == sorted(order)
    assert "--adam_beta1" not in text and "--help_all" in text
    assert "embedded tiny-babyai" in text
    assert len(text.splitlines()) < 160


def test_the_documented_commands_and_configuration_are_accepted(run, yaml_file, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()
    seen = []
    for module in (collect, evaluate, train):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, name, lambda *arguments, name=name: seen.append(name))
    texts = [page, *(module.EXAMPLES for module in (collect, evaluate, train))]
    for text in texts:
        for line in re.findall(
            r"^ *(?:\S+ launch -m trl_vlmq.cli|trl-vlmq) (.+)$", text.replace("\\\n", ""), re.MULTILINE
        ):
            argv = shlex.split(line.partition("#")[0])
            if "--config" not in argv:
                assert run("", *argv)[0] == 0, line
    (config,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert run("train --config", yaml_file(config))[0] == 0
    assert {name: seen.count(name) for name in seen} == {"collect": 3, "train": 5, "evaluate": 4}
