"""The run form: what it offers, and what its values do to ``params.yaml``."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import fsspec
import jsonschema
import pytest
from ruamel.yaml import YAML

from flows.deployments import build_deployment, list_offers, offer_join
from flows.forms import PIPELINE_KEYS, build_pipeline_form, list_settings, name_field
from flows.params_file import edit_params
from tasks.errors import UserError
from tasks.params import Params, read_params


@pytest.fixture
def params(project_root: Path) -> Params:
    return read_params(project_root / "params.yaml")


def test_a_form_shows_what_params_yaml_says(params: Params):
    form = build_pipeline_form(params)
    assert form["train_lr"]["default"] == params.train.lr
    assert form["rounds"]["default"] == len(params.rounds)
    assert form["cues_spread"]["description"]
    assert form["backbone_name"]["enum"]
    assert (form["train_epochs"]["minimum"], form["train_epochs"]["maximum"]) == (1, 1000)
    assert form["train_fg_threshold"]["exclusiveMaximum"] == 1


def test_a_backbone_outside_the_list_stays_choosable(params: Params):
    backbone = params.backbone.model_copy(update={"name": "timm:mobilenetv3_large_100"})
    form = build_pipeline_form(params.model_copy(update={"backbone": backbone}))
    assert "timm:mobilenetv3_large_100" in form["backbone_name"]["enum"]
    assert form["backbone_name"]["default"] == "timm:mobilenetv3_large_100"


def test_every_field_is_a_parameter_of_its_flow(params: Params):
    for offer in [*list_offers(params), offer_join()]:
        assert set(offer.fields) == set(inspect.signature(offer.flow.fn).parameters), offer.name


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"rounds": 21}, "maximum of 20"),
        ({"train_lr": 0}, "minimum of 0"),
        ({"train_lr": "fast"}, "not of type 'number'"),
        ({"backbone_name": "vgg17"}, "not one of"),
        ({"train_crop_size": 100}, "not a multiple of 8"),
        ({"lerning_rate": 0.1}, "Additional properties are not allowed"),
    ],
)
def test_the_schema_refuses(params: Params, values: dict[str, object], rule: str):
    deployment = build_deployment(list_offers(params)[0])
    schema = deployment._parameter_openapi_schema.model_dump(exclude_unset=True)
    jsonschema.validate(deployment.parameters, schema)
    with pytest.raises(jsonschema.ValidationError, match=rule):
        jsonschema.validate({**deployment.parameters, **values}, schema)


def test_an_untouched_form_changes_nothing(project_root: Path, tmp_path: Path, params: Params):
    shutil.copy(project_root / "params.yaml", tmp_path)
    before = (tmp_path / "params.yaml").read_bytes()
    values = {name: field["default"] for name, field in build_pipeline_form(params).items()}
    values = {
        name: int(value) if value == 1.0 and type(value) is float else value for name, value in values.items()
    }
    assert not edit_params(tmp_path, rounds=values["rounds"], settings=list_settings(values, tmp_path))
    assert (tmp_path / "params.yaml").read_bytes() == before


def test_a_filled_in_form_changes_its_keys_only(project_root: Path, tmp_path: Path, params: Params):
    shutil.copy(project_root / "params.yaml", tmp_path)
    (tmp_path / "birds").mkdir()
    values = {
        "source": "birds",
        "train_lr": 1,
        "compute_device": "cpu",
        "more": "cams.size=512 cues.crf.iterations=5",
    }
    edit_params(tmp_path, settings=list_settings(values, tmp_path))
    changed = read_params(tmp_path / "params.yaml").model_dump()
    expected = params.model_dump()
    expected["source"].update(kind="folder", path="birds")
    expected["train"]["lr"] = 1.0
    expected["compute"]["device"] = "cpu"
    expected["cams"]["size"] = 512
    expected["cues"]["crf"]["iterations"] = 5
    assert changed == expected


def test_a_missing_folder_and_a_bare_word_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="folder of pictures on this machine, or a URL, got '/no/such'"):
        list_settings({"source": "/no/such"}, tmp_path)
    with pytest.raises(UserError, match=r"KEY=VALUE, such as cams\.size=512, got 'fast'"):
        list_settings({"more": "fast"}, tmp_path)


def test_a_url_is_a_source():
    fsspec.filesystem("memory").pipe_file("/photos/labels.csv", b"id,classes\n")
    assert list_settings({"source": " memory://photos "}, Path()) == [
        "source.kind=folder",
        'source.path="memory://photos"',
    ]
    with pytest.raises(UserError, match="`nowhere://photos` cannot be used: Unsupported filesystem"):
        list_settings({"source": "nowhere://photos"}, Path())


def test_names_of_fields_are_keys(params: Params):
    names = [name_field(key) for key in PIPELINE_KEYS]
    assert len(set(names)) == len(names)


def test_prefect_yaml_has_the_same_deployments_and_values(project_root: Path, params: Params):
    listed = YAML(typ="safe").load(project_root / "prefect.yaml")["deployments"]
    offers = {offer.name: offer for offer in [*list_offers(params), offer_join()]}
    assert {entry["name"] for entry in listed} == set(offers)
    for entry in listed:
        offer = offers[entry["name"]]
        defaults = {name: field["default"] for name, field in offer.fields.items() if "default" in field}
        assert entry["parameters"] == defaults, entry["name"]
        assert entry["entrypoint"] == f"flows/triggered.py:{offer.flow.fn.__name__}"
        # a run that waits for the machines it asked for must not be in their way
        assert ("concurrency_limit" in entry) == (offer.name != "join")
