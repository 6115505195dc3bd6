"""What commands say of bad input: in words of the field, all at once, with a remedy that works, and exit code 2."""

from __future__ import annotations

import pytest
import toy

from tff_hospitals.experiments import command, train_command
from tff_hospitals.foundations.files import DataError
from tff_hospitals.foundations.signature import ModelSignature
from tff_hospitals.foundations.validation import InvalidInput
from tff_hospitals.hospitals import list_datasets, load_dataset
from tff_hospitals.models import build_model
from tff_hospitals.plan import Plan, review
from tff_hospitals.plan.options import options_of

FILES_NEEDED = (
    *("fashion_mnist", "mnist", "emnist", "cifar100", "shakespeare", "stack_overflow"),
    *("tcga_brca", "isic2019", "image_folder"),
)


def signature_of(dataset):
    return ModelSignature(dataset.feature_shape, dataset.num_classes, dataset.task)


def said(capsys, *flags):
    """Exit code and message of `train` with these flags."""
    code = command.run(train_command, ["train", *flags])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--personal_epochs=1.5", "--personal_epochs='1.5': must be a whole number"),
        ("--rounds=", "--rounds='': must be a whole number"),
        ("--client_learning_rate=fast", "--client_learning_rate='fast': must be a number"),
        ("--error_feedback=maybe", "--error_feedback='maybe': must be true or false"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_our_words(capsys, flag, words):
    code, error = said(capsys, flag)
    assert code == command.REFUSED
    assert words in error
    assert "Remedy: write --" in error
    for foreign in ("invalid literal", "could not convert", "Non-boolean"):
        assert foreign not in error


@pytest.mark.parametrize("name", FILES_NEEDED)
def test_missing_files_are_bad_input_and_the_remedy_is_a_flag(name, tmp_path):
    assert name in list_datasets()
    with pytest.raises(DataError, match=r"--data_option=folder=FOLDER|put them into") as refused:
        load_dataset(name, folder=tmp_path)
    assert "option folder" not in str(refused.value)


def test_missing_files_end_a_command_with_the_code_of_bad_input(capsys, tmp_path):
    code, error = said(capsys, "--dataset=mnist", f"--data_option=folder={tmp_path}", f"--run_dir={tmp_path / 'run'}")
    assert code == command.REFUSED
    assert "no MNIST" in error
    assert not (tmp_path / "run").exists()


BUFFERED = {"cohort": {"kind": "buffered"}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (BUFFERED, "hospitals_per_round=None: must be given with"),
        (BUFFERED, "HOSPITAL:SECONDS for every hospital"),
        ({**BUFFERED, "speeds": "north:-1,south:2"}, "seconds of north in speeds=-1.0"),
        ({"privacy": {"mechanism": "dp_sgd"}}, "target_epsilon='neither': exactly one of the two"),
        ({"link": {"uplink_mbps": 1.0}}, "='one of the two': a round needs both"),
        ({"by_round": "local_steps=linear:1e6"}, "local_steps (100000000 in some round)': must be >= 1 and <= 1000000"),
        ({"rounds": 0}, "give a number of rounds in this range, such as 15"),
    ],
)
def test_what_is_missing_or_out_of_range_is_said_in_a_sentence(changes, words):
    found = [str(one) for one in review.problems(Plan().replace(**changes))]
    assert any(words in one for one in found), found


def test_every_remedy_of_an_option_is_a_sentence():
    for one in options_of(Plan):
        assert not one.advice.endswith("range rounds")
        assert f"range {one.unit}" not in one.advice or not one.unit, one.flag


@pytest.mark.parametrize(("share", "fits"), [(0.5, True), (0.9, True), (0.999, False)])
def test_a_share_that_leaves_nobody_anything_to_train_on_is_refused(share, fits):
    plan = Plan().replace(personal={"kind": "interpolate", "validation_share": share})
    found = [str(one) for one in review.problems(plan, toy.hospitals()) if one.name == "personal_validation_share"]
    assert bool(found) != fits
    assert fits or "site_2 (7)" in found[0]


@pytest.mark.tensorflow
def test_what_cannot_stay_at_a_hospital_is_refused_with_a_remedy_that_works():
    signature = signature_of(toy.hospitals())
    for layers in ("dense", "output"):  # one step, whatever was written
        with pytest.raises(InvalidInput, match="take a deeper model, such as --model=mlp"):
            build_model("logistic_regression", signature, local_layers=layers)
    with pytest.raises(InvalidInput, match=r"name some of its layers: dense_1, output"):
        build_model("mlp", signature, local_layers="*")
    assert build_model("mlp", signature, local_layers="output").local_layers == ("output",)


@pytest.mark.tensorflow
def test_sizes_as_a_list_and_as_a_tuple_are_one_model():
    signature = signature_of(toy.hospitals())
    one, other, usual = (
        build_model("mlp", signature, **given) for given in ({"hidden_units": [64]}, {"hidden_units": (64,)}, {})
    )
    assert one.program == other.program
    assert one.program != build_model("mlp", signature, hidden_units=[32]).program
    assert usual.name == one.name
