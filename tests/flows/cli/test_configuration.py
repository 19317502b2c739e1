"""Tests of the reader of the configuration file: accepted values, then error messages."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from flows.cli.configuration import load_config
from sampling.errors import ConfigurationError
from tasks.config import PipelineConfig

# The configuration of issue 2, unchanged.
ISSUE = r"""
name: gsm8k-demo
source: {path: ../shared/data/gsm8k-train.jsonl, limit: 64}    # or hub: org/name, split: train, adapter: auto
models:
  teacher: {model: flows/demo/models/teacher}
  theta: {model: flows/demo/models/theta}
prompts:
  teacher: {style: plain, template: "Q: {{ question }}\nHint: {{ answer }}\nA:"}
  theta: {style: plain, template: "Q: {{ question }}\nA:"}
mixture: {preset: balanced, alpha_method: kl_symmetry}
sampling: {n: 1, max_tokens: 64, temperature: 1.0, seed: 0}
shards: {rows: 16, retries: 3}
validation: {kl_error_max: 1.0e-6, fallback_rate_max: 1.0, eos_rate_min: 0.0}
publish: {root: published}
"""
SMALLEST = "name: x\nsource: {path: rows.jsonl}\nmodels: {teacher: {model: a}, theta: {model: b}}\n"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(ISSUE)
    return path


def refusal(path: Path, *overrides: str) -> str:
    """Return the error message, one line, without the file's name."""
    with pytest.raises(ConfigurationError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{path}: ", "")


def test_the_configuration_of_issue_2_loads(config_file: Path) -> None:
    config = load_config(config_file)
    assert config.source.limit == 64
    assert config.prompts.theta is not None
    assert config.prompts.theta.template == "Q: {{ question }}\nA:"
    assert config.validation.kl_error_max == 1e-6
    assert config.engine.max_num_seqs == 64  # a section left out


def test_overrides_apply_in_order(config_file: Path) -> None:
    overrides = [
        "sampling.n=2",
        "sampling.n=4",
        "engine.max_num_seqs=8",
        "prompts=null",
        "sampling.stop=[a, b]",
    ]
    config = load_config(config_file, overrides, output="else/where: 1")
    assert config.sampling.n == 4
    assert config.engine.max_num_seqs == 8
    assert config.prompts.teacher is None
    assert config.sampling.stop == ("a", "b")
    assert config.publish.root == "else/where: 1"


def test_overrides_of_text_keys_are_not_parsed_as_yaml(config_file: Path) -> None:
    overrides = ["prompts.theta.template=Q: {{ question }} [x", "name=2024", "models.theta.revision=1e10"]
    config = load_config(config_file, overrides)
    assert config.prompts.theta is not None
    assert config.prompts.theta.template == "Q: {{ question }} [x"
    assert config.name == "2024"
    assert config.models.theta.revision == "1e10"
    assert load_config(config_file, ["models.theta.revision=null"]).models.theta.revision is None


def test_a_section_is_created_for_an_override(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SMALLEST + "mixture:\n")
    config = load_config(path, ["mixture.alpha=0.25", "publish.root=out", "source.columns.question=title"])
    assert config.mixture.alpha == 0.25
    assert config.publish.root == "out"
    assert config.source.columns == {"question": "title"}


@pytest.mark.parametrize("text", ["1e-6", "1.0e-6", "1E-6"])
def test_floats_as_people_write_them(config_file: Path, text: str) -> None:
    assert load_config(config_file, [f"validation.kl_error_max={text}"]).validation.kl_error_max == 1e-6


def test_defaults_are_the_schemas(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(SMALLEST)
    expected = {
        "name": "x",
        "source": {"path": "rows.jsonl"},
        "models": {"teacher": {"model": "a"}, "theta": {"model": "b"}},
    }
    assert load_config(path) == PipelineConfig.model_validate(expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "mixture.target_top_p=1.5",
            "mixture.target_top_p: 1.5 is not allowed: Input should be less than or equal",
        ),
        (
            "mixture.preset=balancd",
            "mixture.preset: 'balancd' is not allowed: Input should be 'conservative', 'balanced' or 'exploratory'",
        ),
        ("sampling.n=true", "sampling.n: true is not allowed: Input should be a valid integer"),
        ("sampling.n='4'", "sampling.n: '4' is not allowed: Input should be a valid integer"),
        (
            "validation.kl_error_max=.nan",
            "validation.kl_error_max: nan is not allowed: Input should be greater than",
        ),
        ("models.theta.model=null", "models.theta.model: null is not allowed: Input should be a valid string"),
        ("sampling.stop=[a, 3]", "sampling.stop[1]: 3 is not allowed: Input should be a valid string, in quotes"),
        (
            "source.path=3",
            "source.path: 3 is not allowed: Input should be a valid string, in quotes or Input should be a valid list",
        ),
        ("source.path={a: b}", "source.path: {'a': 'b'} is not allowed: Input should be a valid string or Input"),
        ("mixture.trust_region=7", "mixture.trust_region: 7 is not allowed: Input should be a valid boolean"),
        ("models.theta.max_model_len=x", "models.theta.max_model_len: 'x' is not allowed: Input should be a valid int"),
        ("source.columns=a", "source.columns: 'a' is not allowed: Input should be a valid dictionary"),
        ("source.columns={3: a}", "source.columns[3]: 3 is not allowed: Input should be a valid string, in quotes"),
        ("shards=3", "shards: 3 is not allowed: Input should be a valid dictionary"),
        ("source.hub=a/b", "source: give exactly one of source.path and source.hub"),
        ("name=refused", "'refused' is the folder of refused datasets; choose another name"),
        (
            "mixture.presett=a",
            "mixture.presett: 'a' is not allowed: Extra inputs are not permitted;"
            " did you mean mixture.preset? known here: preset, alpha_method, alpha, ",
        ),
        (
            "mixture.temperature=1",
            "mixture.temperature: 1 is not allowed: Extra inputs are not permitted; did you mean sampling.temperature?",
        ),
        (
            "mixtur.preset=a",
            "mixtur: {'preset': 'a'} is not allowed: Extra inputs are not permitted;"
            " did you mean mixture? known here: name, source, models, prompts, mixture, ",
        ),
        ("zzz=1", "zzz: 1 is not allowed: Extra inputs are not permitted; known here: name, source, "),
        ("name.x=1", "--set name.x=1: name holds 'gsm8k-demo', which is not a section"),
        ("sampling.n", "--set sampling.n: write it as section.key=value"),
        ("sampling..n=3", "--set sampling..n=3: write it as section.key=value"),
        ("sampling.n={", "--set sampling.n={, line 1, column 2: not valid YAML: expected the node content"),
    ],
)
def test_a_refusal_names_key_value_and_what_is_allowed(config_file: Path, override: str, message: str) -> None:
    assert refusal(config_file, override).startswith(message)


def test_all_errors_are_listed_unknown_keys_first(config_file: Path) -> None:
    first, *others = refusal(config_file, "sampling.n=0", "sampling.seed=-1", "mixture.presett=a").split(
        "merge_endings; "
    )
    assert first.startswith("mixture.presett: 'a' is not allowed: ")
    assert others == [
        "sampling.n: 0 is not allowed: Input should be greater than or equal to 1; "
        "sampling.seed: -1 is not allowed: Input should be greater than or equal to 0"
    ]


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("name: x\nsource: {path: a}\nmodels: {teacher: {model: a}}\n")
    assert refusal(path) == "models.theta: Field required"


BILLION = b"a0: &a0 [x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty; flows/configs/base.yaml shows every key"),
        (b"- a\n", "['a'] is not a section with the keys name, source, models"),
        (b"name: a\nname: b\n", "line 2, column 1: not valid YAML: the key 'name' is given twice"),
        (b"name: [a\nb: c\n", "line 2, column 2: not valid YAML: expected ',' or ']'"),
        (b"name: \xff\n", "not UTF-8 at byte 6; save it as UTF-8"),
        (b"name: \x01\n", "not valid YAML: unacceptable character #x0001"),
        (b"name: &x [*x]\n", "line 1, column 11: a YAML alias refers to itself; write the value out"),
        (BILLION, "line 6, column 34: more than 100000 keys and values, an alias counted as what it stands for"),
        (BILLION.replace(b"[", b"{<<: [").replace(b"]", b"]}"), "line 6, column 23: more than 100000 keys"),
        (b"a: [" + b"1," * 200_000 + b"]", "line 1, column 199999: more than 100000 keys and values"),
        (b"a: " + b"[" * 100_000, "line 1, column 35: more than 32 levels"),
        (b"- " * 100_000, "line 1, column 65: more than 32 levels"),
        (b"a: 1" + b":59" * 100_000, "line 1, column 4: a number of 300001 characters"),
        (b"#" * (4 << 20) + b"\n", "larger than 4194304 bytes, which no configuration is"),
        (
            b"a: !!python/object/apply:os.getcwd []\n",
            "line 1, column 4: not valid YAML: could not determine a constr",
        ),
        (b"a: 1\n---\nb: 1\n", "line 2, column 1: not valid YAML: but found another document"),
        (b"a: 2024-13-45\n", "not valid YAML: month must be in 1..12"),
    ],
)
def test_a_file_that_holds_no_configuration(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    assert refusal(path).removeprefix(f"{path}, ").startswith(message)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nope.yaml").endswith("No such file or directory; give the path of a YAML file")
    assert refusal(tmp_path).endswith("Is a directory; give the path of a YAML file")


def test_values_on_the_command_line_are_bounded_as_well(config_file: Path) -> None:
    bomb = (
        "[&a [x,x,x,x,x,x,x,x,x]" + "".join(f", &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefg")) + "]"
    )
    assert "more than 100000 keys and values" in refusal(config_file, f"validation.severity={bomb}")
    assert "write it as section.key=value" in refusal(config_file, f"{'a.' * 20_000}b=1")
    message = refusal(config_file, f"sampling.seed={'1' * (5 << 20)}")
    assert "more than 4194304 characters" in message
    assert len(message) < 250


def test_of_many_errors_the_first_are_told(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("".join(f"k{i}: v\n" for i in range(1000)))
    message = refusal(path)
    assert message.count("Extra inputs") == 20
    assert message.endswith("; and 983 more")  # 1000 unknown, 3 missing


def test_a_long_value_is_cut(config_file: Path) -> None:
    assert len(refusal(config_file, f"name={'a b' * 1000}")) < 250
