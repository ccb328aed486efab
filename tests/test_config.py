"""The configuration: every key, overrides, and messages that name the key and the remedy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from support import write_config

from mpigmm.config import dump, load_config
from mpigmm.config_text import example_file, keys, part_of_file, reference, whole_file
from mpigmm.errors import ConfigError
from mpigmm.options import FitOptions
from mpigmm.quantities import parse_size

CONTRACT = """
data:    {path: photo.h5, dataset: /X, weights: null, columns: null, rows: null, missing: error}
model:   {n_components: 8, covariance_type: full, reg_covar: 1.0e-6, variance_floor: 1.0e-12, prior: none}
init:    {method: kmeans, n_init: 1, screening: true, seed: 0, file: null, labels: null}
em:
  {algorithm: batch, max_iter: 100, tol: 1.0e-4, criterion: change, accelerate: none, split_merge: 0, reseed: true,
   step_exponent: 0.6, step_offset: 10.0, batch_tiles: auto, held_out: 0.0, polish: 1}
compute: {device: auto, gpu_aware_mpi: auto, precision: float64, threads: auto, memory: auto, tile_rows: auto}
output:  {dir: runs/photo, checkpoint_iterations: 10, checkpoint_seconds: 300, walltime: null, statistics: auto}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    return str(write_config(tmp_path / "photo.yaml", data={"path": "photo.h5"}))


def test_the_contracts_keys_are_the_defaults(tmp_path: Path, config: str) -> None:
    path = tmp_path / "contract.yaml"
    path.write_text(CONTRACT)
    assert load_config(str(path)) == load_config(config)
    assert yaml.safe_load(dump(load_config(config))) == yaml.safe_load(CONTRACT)


def test_overrides_and_variables(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/scratch/a b")
    overrides = [
        "data.path=$PLACE/x.h5",
        "em.tol=1e-6",
        "model.n_components=16",
        "data.columns=[0,2]",
        "output.dir=~/r",
    ]
    options = load_config(config, overrides)
    assert options.data.path == "/scratch/a b/x.h5"
    assert options.em.tol == 1e-6
    assert options.model.n_components == 16
    assert options.data.columns == [0, 2]
    assert options.output.dir == str(Path("~/r").expanduser())


def test_a_resolved_config_reads_as_itself(tmp_path: Path, config: str) -> None:
    options = load_config(config, ["data.path=[a.h5, b.h5]", "compute.memory=2MiB"])
    path = tmp_path / "config.yaml"
    path.write_text(dump(options))
    assert load_config(str(path)) == options


@pytest.mark.parametrize(
    ("text", "size"),
    [(12, 12), ("64kB", 64_000), ("256MB", 256_000_000), ("1.5GiB", 3 << 29), ("auto", "auto"), ("10 b", 10)],
)
def test_sizes(text: object, size: object) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("01:30", 90),
        ("4:00:00", 14400),
        ("08:00:09", 28809),
        ("1-12:00:00", 129600),
        ("'60'", 60),
        ("90:00", 5400),
        ("100:00:00", 360000),
        ("1-23:59:59", 172799),
    ],
)
def test_times_quoted_or_as_yaml_reads_them(config: str, text: str, seconds: int) -> None:
    assert load_config(config, [f"output.walltime={text}"]).output.walltime == seconds


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.n_component=4", "did you mean model.n_components?"),
        ("modle.n_components=4", "did you mean model?"),
        ("compute.n_components=4", "model.n_components"),
        ("model.n_components=0", "model.n_components: 0 .* >= 1"),
        ("model.n_components=true", "model.n_components: True"),
        ("data.columns=[true]", "data.columns: .True."),
        ("data.path=''", "'' is no path"),
        ("init.seed=99999999999999999999", "init.seed: 9+ .*<= 9223372036854775807"),
        ("compute.tile_rows=1000000000000", "compute.tile_rows: 1000000000000 .* >= 1 <= 16777216 or auto"),
        ("model.n_components=2.5", "model.n_components: 2.5 .*whole number"),
        ("model.n_components=many", "model.n_components: 'many'"),
        ("model.covariance_type=round", "full, tied, diag, spherical"),
        ("model.reg_covar=-1", "model.reg_covar: -1 .*>= 0"),
        ("model.reg_covar=.inf", "model.reg_covar: inf"),
        ("em.tol=.nan", "em.tol: nan"),
        ("em.algorithm=online", "em.algorithm: 'online' is not valid; batch, stepwise expected"),
        ("em.accelerate=nesterov", "em.accelerate: 'nesterov' is not valid; none, anderson, squarem expected"),
        ("compute.device=tpu", "compute.device: 'tpu' is not valid; auto, cpu, gpu expected"),
        ("compute.gpu_aware_mpi=1", "compute.gpu_aware_mpi: 1 is not valid; true or false or auto expected"),
        ("compute.gpu_aware_mpi=maybe", "compute.gpu_aware_mpi: 'maybe' is not valid; true or false or auto"),
        ("compute.precision=float16", "compute.precision: .* is not valid; .*float32 expected"),
        ("compute.threads=0", "compute.threads: 0"),
        ("compute.tile_rows=-5", "compute.tile_rows: -5"),
        ("compute.memory=lots", "compute.memory: 'lots' is no size"),
        ("compute.memory=0", "compute.memory: 0 is no size"),
        ("output.walltime=soon", "output.walltime: 'soon' is no time"),
        ("output.walltime=1-12", "output.walltime: '1-12' is no time"),
        ("output.walltime=1:2:3:4", "output.walltime: '1:2:3:4' is no time"),
        ("output.walltime=1:2:3.5", "output.walltime: '1:2:3.5' is no time"),
        ("output.walltime=01:75:00", "output.walltime: '01:75:00' is no time"),
        ("output.walltime=1:75", "output.walltime: '1:75' is no time"),
        ("output.walltime=1-24:00:00", "output.walltime: '1-24:00:00' is no time"),
        ("output.walltime='" + "9" * 400 + "'", "output.walltime: '9+...9+' is no time"),
        ("output.walltime=" + "9" * 400, "output.walltime: 9+...9+ is too large"),
        ("compute.memory=" + "9" * 400, "compute.memory: 9+...9+ is no size"),
        ("compute.memory=" + "9" * 400 + "GB", "compute.memory: '9+...9+GB' is no size"),
        ("em.max_iter=" + "9" * 400, "em.max_iter: 9+...9+ is too large"),
        ("em.max_iter=0x" + "f" * 5000, "em.max_iter: a number of thousands of digits is too large"),
        ("data.columns=[0x" + "f" * 5000 + "]", "data.columns: a number of thousands of digits is too large"),
        ("em.max_iter=1:30", "em.max_iter: '1:30' is not valid"),
        ("data.path=$NO_SUCH_VARIABLE/a\nb", r"data.path: \$NO_SUCH_VARIABLE/a b: the"),
        ('data.path="$NO_SUCH_VARIABLE/a\\nb"', r"data.path: \$NO_SUCH_VARIABLE/a\\nb: the"),
        ("output.walltime=0", "output.walltime: 0 .*> 0 or null"),
        ("output.checkpoint_seconds=0", "output.checkpoint_seconds: 0 .*> 0"),
        ("init.method=magic", "kmeans, kmeans\\+\\+, random, random_resp, file"),
        ("init.method=file", "init.file is missing"),
        ("init.file=m.h5", "init.method is 'kmeans'"),
        ("data.path=null", "data.path: None"),
        ("data.path=$NO_SUCH_VARIABLE/x", "NO_SUCH_VARIABLE is not set"),
        ("data.columns=[1.5]", "data.columns: .*whole numbers or texts"),
        ("data.missing=ignore", "data.missing: 'ignore' .*error, drop"),
        ("em.max_iter", "section.key=value"),
        ("select.n_components=[0,3]", "select.n_components: .0, 3. is not valid"),
        ("select.covariance_type=[full,round]", "select.covariance_type: 'round' is not valid; full, tied, diag"),
        ("select.seeds=[]", "select.seeds: the list is empty"),
        ("select.seeds=[1,1]", "select.seeds: .1, 1. names an entry twice"),
        ("select.held_out=1", "select.held_out: 1.* is not valid"),
        ("max_iter=3", "section.key=value"),
        ("em.max_iter=[1", "not valid YAML"),
    ],
)
def test_faults_name_the_key_and_the_remedy(config: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(config, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "data.path is missing"),
        ("data: {path: x}\ndata: {path: y}", "the key data stands twice"),
        ("data: 3", "data: a section of keys"),
        ("[1, 2]", "holds no sections"),
        ("data: {path: x", "not valid YAML: line 1, column 15: while parsing a flow mapping, expected ',' or '}'"),
        ("data:\n  path: [a, b\nmodel: {}", "line 3, column 6: while parsing a flow sequence, expected ',' or ']'"),
        ("data:\n  path: \x01", "line 2, column 9: special characters are not allowed"),
        ("data: {path: x}\nem: {tol: 2020-13-01}", "line 2, column 11: '2020-13-01' cannot be read as a date"),
        ("data: {path: x}\nem: {tol: !!int ''}", "line 2, column 11: '' cannot be read as a whole number"),
        ("data: {path: x}\nem: {tol: !!bool x}", "line 2, column 11: 'x' cannot be read as true or false"),
        ("{" * 3000, "it is nested too deeply"),
        ("data: {path: x}\nmodel: {}\nextra: {}", "unknown section extra"),
        ("data: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(str(path))
    assert "^" not in str(raised.value)


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "date: {}\nmodle: {}\ndata: {pth: 1, path: $NOPE/x, rows: 3}\ncompute: 4\noutput: {walltime: soon}\n"
        'em: {"a\\nb": 1, tol: -1, max_iter: many, algorithm: online}'
    )
    with pytest.raises(ConfigError) as raised:
        load_config(str(path), ["em.x", "em.tol=[", "foo.bar=1"])
    told = str(raised.value).splitlines()
    for start in (
        "override 'em.x'",
        "override 'em.tol=['",
        "unknown section date",
        "unknown section modle",
        "unknown section foo",
        "unknown key data.pth",
        r"unknown key em.a\nb",
        "data.path: $NOPE/x",
        "data.rows: 3",
        "compute: a section",
        "em.max_iter: 'many'",
        "em.tol: -1",
        "em.algorithm: 'online'",
        "output.walltime: 'soon'",
    ):
        assert sum(line.startswith(start) for line in told) == 1, (start, told)
    assert len(told) == 14
    path.write_text("\n".join(f"k{i}: {{}}" for i in range(100)))
    with pytest.raises(ConfigError, match=r"and 81 more$"):
        load_config(str(path))


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(str(tmp_path / "none.yaml"))
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(str(tmp_path / "binary.yaml"))


def test_every_option_has_help_and_the_page_is_current() -> None:
    for section in dataclasses.fields(FitOptions):
        assert section.name in reference()
    page = Path(__file__).parent.parent / "docs" / "configuration.md"
    assert page.read_text() == reference(), "run `make docs`"


def test_the_section_of_select_is_written_only_where_it_says_something(config: str) -> None:
    assert "select" not in yaml.safe_load(dump(load_config(config)))
    options = load_config(config, ["select.n_components=4", "select.seeds=[7,8]", "select.criterion=icl"])
    assert (options.select.n_components, options.select.seeds) == ([4], [7, 8])
    assert yaml.safe_load(dump(options))["select"]["criterion"] == "icl"
    with pytest.raises(ConfigError, match=r"select\.held_out: 0 leaves no rows"):
        load_config(config, ["select.criterion=held_out", "select.held_out=0"])


def test_the_file_of_all_keys_holds_the_defaults(tmp_path: Path, config: str) -> None:
    """Only `data.path` must be set, in the file or on the command line; other programs read the same values."""
    path = tmp_path / "photo.yaml"
    path.write_text(whole_file())
    with pytest.raises(ConfigError, match=r"data\.path is missing"):
        load_config(str(path))
    options = load_config(str(path), ["data.path=photo.h5"])
    path.write_text(whole_file().replace("# path:", "path: photo.h5"))
    assert load_config(str(path)) == options == load_config(config)
    found = yaml.safe_load(whole_file())
    for key, (section, field) in keys().items():
        assert field.metadata.get("required") or found[section][field.name] == field.default, key
    assert max(map(len, whole_file().splitlines())) <= 120


def test_the_example_is_a_file_with_defaults(tmp_path: Path) -> None:
    path = tmp_path / "photo.yaml"
    path.write_text(example_file())
    expected = write_config(tmp_path / "same.yaml", data={"path": "rows.h5"}, output={"dir": "runs/first"})
    assert load_config(str(path)) == load_config(str(expected))
    assert example_file().count("#") > example_file().count(": ")


def test_help_of_a_key() -> None:
    assert part_of_file("em.tol") == (
        "em:\n  # Stop when the mean log-likelihood of a row changes by less than this; 0 runs all iterations.\n"
        "  tol: 0.0001  # a number >= 0"
    )
    assert {f"em.{name}" for name in yaml.safe_load(part_of_file("em"))["em"]} == {k for k in keys() if k[:3] == "em."}
    assert set(yaml.safe_load(part_of_file("n_components"))) == {"model", "select"}
    for name, nearest in {"em.tool": "em.tol", "n_component": "model.n_components", "ini": "init", "in": ""}.items():
        with pytest.raises(ConfigError, match=f"unknown (key|section) {name}; (did you mean {nearest}|known are)"):
            part_of_file(name)
