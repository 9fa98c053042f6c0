"""Laws of `classify`: the same classes from Python and the command line, and which stretch decided."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import limosa
from limosa.app.cli import main
from limosa.errors import DataError, ModelNotFound, UsageError
from limosa.tasks.classify import importance

FEW = {"features": 168}


def recordings(each=10, seed=0, bump=True):
    """A long table: class `bump` has a bump at steps 30 to 36 of channel x; y is noise."""
    dice, parts = np.random.default_rng(seed), []
    for i in range(2 * each):
        x = 0.1 * dice.normal(size=60)
        if i % 2:
            x[30:36] += 2.0
        label = ("flat", "bump")[i % 2]
        parts.append(pd.DataFrame({"unique_id": f"r{i}", "x": x, "y": dice.normal(size=60), "label": label}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def found():
    return limosa.classify(recordings(seed=1), train=recordings(), model="minirocket", options=FEW, proba=True)


def test_each_series_gets_a_class_and_probabilities(found):
    table = found.frame()
    assert table.columns.tolist() == ["unique_id", "label", "probability-bump", "probability-flat", "actual"]
    assert table["unique_id"].tolist() == [f"r{i}" for i in range(20)]
    assert found.accuracy == 1.0
    np.testing.assert_allclose(table[["probability-bump", "probability-flat"]].sum(axis=1), 1.0)
    unlabelled = limosa.classify(recordings(seed=1).drop(columns="label"), model=found.classifier)
    assert unlabelled.accuracy is None
    assert unlabelled.frame().columns.tolist() == ["unique_id", "label"]
    assert unlabelled.labels.tolist() == found.labels.tolist()


def test_channels_are_found_by_name_and_lacking_ones_are_named(found, caplog):
    table = recordings(seed=1)
    other = table[["label", "y", "unique_id", "x"]].assign(z=1.0)
    again = limosa.classify(other, model=found.classifier)
    np.testing.assert_array_equal(again.probabilities, found.probabilities)
    assert "left out, for the classifier was not fitted to them: z" in caplog.text
    with pytest.raises(DataError, match="channels y are lacking"):
        limosa.classify(table.drop(columns="y"), model=found.classifier)


def test_the_command_line_and_a_saved_classifier_give_the_same_numbers(found, tmp_path, capsys):
    recordings().to_csv(tmp_path / "train.csv", index=False)
    recordings(seed=1).to_csv(tmp_path / "new.csv", index=False)
    words = ["classify", str(tmp_path / "new.csv"), "--train", str(tmp_path / "train.csv"), "-m", "minirocket"]
    words += ["--option", "features=168", "--proba", "--json", "-q", "--save", str(tmp_path / "kept")]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["label"] for row in rows] == found.labels.tolist()
    np.testing.assert_allclose([row["probability-bump"] for row in rows], found.probabilities[:, 0], atol=1e-6)
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names == ["classification.json", "config.json", "model.safetensors"]
    again = limosa.classify(tmp_path / "new.csv", model=tmp_path / "kept")
    np.testing.assert_allclose(again.probabilities, found.probabilities, atol=1e-6)
    assert main(["classify", str(tmp_path / "new.csv"), "-m", str(tmp_path / "kept"), "--train", "x.csv"]) == 2
    assert "is fitted already" in capsys.readouterr().err


def test_the_stretch_and_the_channel_that_decided_are_found(found, tmp_path):
    series = found.series.arrays()[1]
    weight = importance(found.classifier, series)
    step, channel = np.unravel_index(weight.argmax(), weight.shape)
    assert channel == 0
    assert 24 <= step <= 42
    found.plot(tmp_path / "labels.png")
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_done_is_refused_in_words(found, tmp_path):
    table = recordings(each=2)
    with pytest.raises(UsageError, match=r"give labelled series, train \(--train\)"):
        limosa.classify(table)
    with pytest.raises(UsageError, match="cannot classify series"):
        limosa.classify(table, train=table, model="z2")
    with pytest.raises(ModelNotFound, match="did you mean minirocket"):
        limosa.classify(table, train=table, model="minirokcet")
    with pytest.raises(DataError, match="all series are of class 'flat'"):
        limosa.classify(table, train=table[table["label"] == "flat"])
    with pytest.raises(ModelNotFound, match="has not learnt any classes yet"):
        limosa.load("minirocket")
    with pytest.raises(UsageError, match="limosa classify FILE --train"):
        limosa.train(recordings(each=2).assign(ds=range(240)), out=tmp_path / "x", model="minirocket", target_col="x")
    found.classifier.save(tmp_path / "kept")
    (tmp_path / "kept" / "classification.json").unlink()
    with pytest.raises((DataError, ModelNotFound)):
        limosa.classify(table, model=tmp_path / "kept")


def test_a_fitted_classifier_streams_rows_where_its_network_can():
    made = limosa.classify(
        recordings(each=3), train=recordings(each=3), model="aaren_classifier", options={"layers": 1}, steps=3
    )
    stream = limosa.stream(made.classifier.classifier)
    for row in made.series.arrays()[0]:
        probabilities = stream.update(row)
    np.testing.assert_allclose(probabilities[0].numpy(), made.probabilities[0], atol=1e-5)
