import shutil

import pytest
import yaml

from kdkeras.errors import InputError
from kdkeras.export import write_model_card
from kdkeras.export.model_card import TrainingData

TATOEBA = TrainingData(
    name="tatoeba",
    description="9,000 pairs.",
    license="CC BY 2.0 FR",
    attribution="© the contributors of [tatoeba.org](https://tatoeba.org).",
)


@pytest.fixture
def card(folders, tmp_path):
    path = write_model_card(
        folders / "StaticStudent",
        folder=tmp_path,
        teacher="sentence-transformers/all-MiniLM-L6-v2",
        license="apache-2.0",
        training_data=[TATOEBA],
        accuracy={"untrained": {"de": 0.1, "no": 0.0}, "trained": {"de": 0.9, "no": 0.8}},
        details={"epochs": 5, "losses": {"embedding": 1.0}},
    )
    assert path == tmp_path / "MODEL_CARD.md"
    return path.read_text()


def test_front_matter_is_that_of_the_hub(card):
    _, front, _ = card.split("---\n", 2)
    content = yaml.safe_load(front)
    assert content["license"] == "apache-2.0"
    # Without quotes, YAML would parse Norwegian as false.
    assert content["language"] == ["de", "en", "no"]
    assert content["library_name"] == "keras"
    assert content["pipeline_tag"] == "sentence-similarity"
    assert content["base_model"] == ["sentence-transformers/all-MiniLM-L6-v2"]
    assert content["datasets"] == ["tatoeba"]
    assert "multilingual" in content["tags"]
    result = content["model-index"][0]["results"][0]["metrics"][0]
    assert (result["type"], result["value"]) == ("accuracy", 0.85)


@pytest.mark.parametrize(
    "text",
    [
        "| German (de) | 10.0 | 90.0 |",
        "| **Mean** | 5.0 | 85.0 |",
        "| `model.int8.tflite` |",
        "have not been compared with Keras",
        "the weakest is no (80.0 %)",
        "Word order is ignored",
        "up to 37 tokens",
        "`embed_16`, `embed_37`",
        "pip install ai-edge-litert numpy sentencepiece",
        "| losses | embedding 1 |",
        "**tatoeba** (CC BY 2.0 FR): 9,000 pairs.",
        "© the contributors of [tatoeba.org]",
    ],
)
def test_card_contains(card, text):
    assert text in card


def test_card_names_the_worst_language_of_each_artifact(folders, tmp_path):
    shutil.copytree(folders / "TransformerStudent", tmp_path / "student")
    languages = {
        code: {"accuracy_change_points": change} for code, change in (("de", 0.4), ("ja", -0.8))
    }
    similarity = {"en_de_test": {"spearman_change_points": -0.04}}
    keras = {
        "languages": {"de": {"accuracy": 0.9}, "ja": {"accuracy": 0.854}},
        "similarity": {"en_de_test": {"spearman": 0.625}},
    }
    figures = {"latency_ms": 0.12, "cosine_mean": 0.9999, "cosine_min": 0.998}
    figures |= {"path": "model.int8.tflite", "languages": languages, "similarity": similarity}
    parity = {"keras": keras, "artifacts": {"tflite_int8": figures}}
    card = write_model_card(
        tmp_path / "student", teacher="a/b", license="mit", training_data=[], parity=parity
    ).read_text()
    assert "| 0.12 | 0.999900 / 0.998000 | -0.80 (ja) |" in card
    for line in (
        "| | Keras | `model.int8.tflite` |",
        "| German (de) | 90.0 | +0.40 |",
        "| Japanese (ja) | 85.4 | -0.80 |",
        "| STS en_de_test | 62.5 | -0.04 |",
    ):
        assert f"{line}\n" in card
    assert "numpy tokenizers" in card and "Word order" not in card


def test_folder_must_be_an_export(tmp_path):
    with pytest.raises(InputError, match=r"readable export\.json"):
        write_model_card(tmp_path, teacher="a/b", license="mit", training_data=[])
