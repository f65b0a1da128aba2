"""The image job end to end, on photographs made here and on real ones: train, resume, evaluate, predict, refuse."""

from __future__ import annotations

import json
import pathlib
import signal
import sys

import chex
import numpy as np
import pytest
from PIL import Image

from jaxmodels import classifier, cli, data, mlp, runs
from jaxmodels.classifier import Options, network, training
from jaxmodels.core import InputError, chain, stateless
from jaxmodels.plots import figure

SMALL = {"model": "resnet18", "image_size": 16, "batch_size": 4, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> pathlib.Path:
    """Reddish and bluish photographs, 14 to train on and 6 held out, with spaces and accents in their names."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 3)):
        for name, channel in (("rouge foncé", 0), ("blue", 2)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 90, (24 + number, 30, 3), np.uint8)
                pixels[..., channel] += 120
                suffix = ("jpg", "png", "bmp")[number % 3]
                Image.fromarray(pixels).save(root / split / name / f"photo {number}.{suffix}")
    return root


@pytest.fixture
def tiny(monkeypatch):
    """A perceptron on the averages of stripes in the place of the ResNet, for what does not depend on the network."""

    def averages(pixels):
        return pixels.astype("float32").reshape(-1, 4, 64, 3).mean(axis=2).reshape(-1, 12) / 255

    body = chain(stateless(averages), mlp.model(hidden_sizes=(8,), num_outputs=6))
    monkeypatch.setattr(network, "extractor", lambda options, preprocess: body)
    monkeypatch.setattr(network, "num_features", lambda options, preprocess: 6)


@pytest.fixture
def undrawn(monkeypatch):
    """No pictures, for a test of many runs."""
    monkeypatch.setattr(figure, "_save", lambda figure, path: path)


def losses_of(run: pathlib.Path) -> list[tuple[int, float, float]]:
    records = [record for record in runs.read_metrics(runs.Run(run)) if record["kind"] == "step"]
    return [(record["step"], record["loss"], record["gradient_norm"]) for record in records]


def epochs_of(run: pathlib.Path) -> list[dict]:
    return [record for record in runs.read_metrics(runs.Run(run)) if record["kind"] == "epoch"]


def stop_after(count: int):
    asked = iter(range(100))
    return lambda: next(asked) >= count


@pytest.fixture(scope="module")
def scratch(photos, tmp_path_factory) -> pathlib.Path:
    """A run from scratch that was never interrupted."""
    output = tmp_path_factory.mktemp("runs") / "scratch"
    options = Options(**SMALL, epochs=3, mixup=0.2, cutmix=0.2, color_jitter=0.1, ema=0.9, dropout=0.1, clip=1.0)
    summary = classifier.train(photos, options, output=output)
    assert summary["finished"]
    assert summary["step"] == 12
    return output


def test_a_run_leaves_what_it_promises(scratch):
    assert {path.name for path in scratch.iterdir()} == {
        "config.json", "metrics.jsonl", "checkpoints", "model", "report.json", "skipped.json", "plots"
    }  # fmt: skip
    plots = {"learning_curve.png", "roc.png", "confusion_matrix.png", "calibration.png"}
    assert plots <= {path.name for path in (scratch / "plots").iterdir()}
    report = json.loads((scratch / "report.json").read_text())
    assert np.sum(report["confusion_matrix"]) == report["num_examples"] == 6
    assert len(epochs_of(scratch)) == 3


@pytest.mark.slow
def test_stopped_in_mid_epoch_and_resumed_it_is_bit_identical(scratch, photos, tmp_path):
    options = network.load(scratch).options
    for count in (0, 2, 5):
        first = not (tmp_path / "run").exists()
        summary = classifier.train(
            photos,
            options if first else Options(),
            output=tmp_path / "run",
            resume=not first,
            should_stop=stop_after(count),
        )
        assert not summary["finished"]
        assert (summary["images_per_second"] > 0) == (count > 0)
    classifier.train(photos, Options(), output=tmp_path / "run", resume=True)
    assert losses_of(tmp_path / "run") == losses_of(scratch)
    assert epochs_of(tmp_path / "run") == epochs_of(scratch)
    chex.assert_trees_all_equal(network.load(tmp_path / "run").params, network.load(scratch).params)


def test_evaluate_repeats_the_report_of_training(scratch, photos):
    report, folder = classifier.evaluate(scratch, photos / "val")
    trained = json.loads((scratch / "report.json").read_text())
    assert report["confusion_matrix"] == trained["confusion_matrix"]
    assert (folder / "report.json").exists()


def test_predict_gives_every_file_a_line(scratch, photos, tmp_path, capsys, monkeypatch):
    good = sorted((photos / "val" / "blue").iterdir())[0]
    bad = tmp_path / "empty.jpg"
    bad.touch()
    monkeypatch.setattr(sys, "argv", ["jaxmodels", "predict", str(scratch), str(good), str(bad), "none.png"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ended.value.code == 2
    assert [line["file"] for line in lines] == [str(good), str(bad), "none.png"]
    assert set(lines[0]["probabilities"]) == {"blue", "rouge foncé"}
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert "empty" in lines[1]["error"]
    assert "cannot be read" in lines[2]["error"]
    monkeypatch.setattr(sys, "argv", ["jaxmodels", "predict", str(scratch)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (
        2,
        "jaxmodels: files: none given; name the images to classify, or a table\n",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_packed_store_trains_and_evaluates_as_its_folder(photos, tmp_path):
    options = Options(**SMALL, epochs=1)
    data.pack(photos, tmp_path / "packed", image_size=16)
    for name, directory in (("a", photos), ("b", tmp_path / "packed")):
        classifier.train(directory, options, output=tmp_path / name)
    assert losses_of(tmp_path / "a") == losses_of(tmp_path / "b")
    reports = [classifier.evaluate(tmp_path / "a", root / "val")[0] for root in (photos, tmp_path / "packed")]
    assert reports[0] == reports[1]
    with pytest.raises(InputError, match="train' holds crops of 16 px .* not canvases of 23 px"):
        classifier.train(tmp_path / "packed", Options(**SMALL | {"image_size": 20}), output=tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("tiny", "undrawn")
def test_every_training_option_changes_the_run(photos, tmp_path):
    """An option that does nothing would leave the losses as they were."""
    base = {**SMALL, "steps": 4, "augment": "never"}
    changes = [
        {"optimizer": "lamb"},
        {"learning_rate": 1e-2},
        {"schedule": "constant"},
        {"warmup_epochs": 0.5},
        {"weight_decay": 10.0},
        {"clip": 1e-6, "optimizer": "sgd"},
        {"accumulate": 2},
        {"label_smoothing": 0.2},
        {"dropout": 0.5},
        {"head": "dense"},
        {"seed": 1},
        {"batch_size": 5},
        {"augment": "always"},
        {"augment": "always", "mixup": 1.0},
        {"augment": "always", "cutmix": 1.0},
        {"augment": "always", "color_jitter": 0.5},
        {"augment": "always", "crop_scale": 0.9},
    ]
    seen = {}
    for change in [{}, *changes]:
        output = tmp_path / str(len(seen))
        classifier.train(photos, Options(**{**base, **change}), output=output)
        losses = tuple(losses_of(output))
        assert losses not in seen, f"{change} gives what {seen[losses]} gave"
        seen[losses] = change


@pytest.mark.usefixtures("tiny")
def test_sigterm_saves_and_exits(photos, tmp_path, monkeypatch, capsys):
    steps = iter(range(100))
    real = training._on_step

    def interrupted(*arguments):
        real(*arguments)
        if next(steps) == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(training, "_on_step", interrupted)
    arguments = ["train", str(photos), "--output", str(tmp_path / "run")]
    for name, value in {**SMALL, "epochs": 2}.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    monkeypatch.setattr(sys, "argv", ["jaxmodels", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 128 + signal.SIGTERM
    out, err = capsys.readouterr()
    assert "--resume" in err
    assert not json.loads(out.splitlines()[-1])["finished"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(InputError, match="has no trained model yet"):
        network.load(tmp_path / "run")


@pytest.mark.slow
def test_frozen_epochs_on_real_weights_then_the_whole_network(photos, data_dir, tmp_path):
    weights = str(data_dir / "weights" / "resnet50_augnet.pth")
    options = Options(
        weights=weights, image_size=32, batch_size=7, epochs=4, frozen_epochs=3, learning_rate=1e-3, head="dense"
    )
    output = tmp_path / "run"
    stopped = classifier.train(photos, options, output=output, should_stop=stop_after(3))
    assert not stopped["finished"]
    summary = classifier.train(photos, Options(), output=output, resume=True)
    assert summary["finished"]
    assert summary["images_per_second"] > 0
    assert [record["phase"] for record in epochs_of(output)] == ["head"] * 3 + ["whole"]
    assert [record["epoch"] for record in epochs_of(output)] == [1, 2, 3, 4]
    assert summary["accuracy"] == 1.0


REFUSED = [
    ([], {"model": "resnet51"}, "resnet51"),
    ([], {"learning_rate": "-1"}, "--learning-rate: must be positive, got -1"),
    ([], {"batch_size": "99"}, "--batch-size: 99 is more than the 14 training images"),
    ([], {"dropout": "1.5"}, r"--dropout: must be in [0, 1), got 1.5"),
    ([], {"weights": "missing.pth"}, "'missing.pth' cannot be read (No such file"),
    ([], {"frozen_epochs": "3"}, "--frozen-epochs: a network without published weights"),
    ([], {"augment": "never", "mixup": "0.2"}, "--augment never: leaves mixup and cutmix without effect"),
    (["--resume"], {}, "does not exist; give the folder that --output named"),
]


@pytest.mark.parametrize(("flags", "options", "message"), REFUSED, ids=[case[2][:30] for case in REFUSED])
def test_wrong_arguments_are_one_line_and_leave_nothing(photos, tmp_path, monkeypatch, capsys, flags, options, message):
    arguments = ["train", str(photos), "--output", str(tmp_path / "run"), *flags]
    for name, value in {**SMALL, **options}.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    monkeypatch.setattr(sys, "argv", ["jaxmodels", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    _, err = capsys.readouterr()
    assert ended.value.code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (lambda root: None, "does not exist"),
        (lambda root: root.mkdir(), "holds no class folders"),
        (lambda root: (root / "cats").mkdir(parents=True), "holds only one class"),
        (lambda root: [(root / name).mkdir(parents=True) for name in ("cats", "dogs")], "holds no images"),
        (lambda root: root.touch(), "is a file"),
    ],
    ids=["missing", "empty", "one class", "no images", "a file"],
)
def test_folders_that_cannot_be_trained_on(tmp_path, arrange, message):
    arrange(tmp_path / "photos")
    with pytest.raises(InputError, match=message) as error:
        classifier.train(tmp_path / "photos", Options(**SMALL), output=tmp_path / "run")
    assert str(tmp_path / "photos") in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("tiny")
def test_bad_images_are_skipped_and_listed_or_strictly_refused(photos, tmp_path):
    mixed = tmp_path / "photos"
    for name in ("blue", "rouge foncé"):
        (mixed / name).mkdir(parents=True)
        for path in (photos / "train" / name).iterdir():
            (mixed / name / path.name).symlink_to(path)
    (mixed / "blue" / "zero.jpg").touch()
    (mixed / "blue" / "text.png").write_text("hello")
    (mixed / "blue" / "folder.jpg").mkdir()
    (mixed / "blue" / "loop").symlink_to(mixed)
    with pytest.raises(InputError, match=r"(zero\.jpg|text\.png)"):
        classifier.train(mixed, Options(**SMALL), output=tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()
    summary = classifier.train(mixed, Options(**SMALL, epochs=1, augment="never"), output=tmp_path / "run")
    assert summary["finished"]
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())
    assert {pathlib.Path(entry["path"]).name for entry in skipped} >= {"zero.jpg", "text.png", "folder.jpg"}
    assert all(entry["reason"] for entry in skipped)


def test_an_output_folder_that_is_taken_is_left_alone(scratch, photos, tmp_path):
    before = (scratch / "config.json").read_bytes()
    with pytest.raises(InputError, match="holds another run; add --resume"):
        classifier.train(photos, Options(**SMALL), output=scratch)
    assert (scratch / "config.json").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not an empty folder"):
        classifier.train(photos, Options(**SMALL), output=tmp_path)


def test_resuming_refuses_other_options_and_other_photographs(scratch, photos, tmp_path):
    with pytest.raises(InputError, match="--image-size: 48, but .* was begun with 16"):
        classifier.train(photos, Options(image_size=48), output=scratch, resume=True)
    with pytest.raises(InputError, match="holds other photographs"):
        classifier.train(photos / "train", Options(), output=scratch, resume=True)


def test_a_class_that_training_lacks_is_named(scratch, photos, tmp_path):
    (tmp_path / "green").mkdir()
    (tmp_path / "green" / "a.png").symlink_to(sorted((photos / "val" / "blue").iterdir())[0])
    with pytest.raises(InputError, match="green.* is a class that training lacks"):
        classifier.evaluate(scratch, tmp_path)
