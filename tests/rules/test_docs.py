"""`docs/rules.md`: its examples can be loaded, and it names every option."""

import re
from pathlib import Path

import pytest

from streamer import config, edges
from streamer.line import build_line
from streamer.stats import Stats
from tests.fakes import spec_of

TEXT = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
AUDIOSET = (
    "Siren", "Smoke detector, smoke alarm", "Rain", "Silence", "Bark", "Glass", "Shatter", "Walk, footsteps",
    "Pump (liquid)",
)  # fmt: skip
TOP = "node: garage\nstreams: {mic: {source: {type: microphone}}}\n"


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_can_be_loaded_and_runs(example: str) -> None:
    spec = spec_of(*AUDIOSET)
    settings = config.parse(TOP + example, "docs/rules.md", edges.edge_config, lambda name: spec)
    line = build_line(settings, "mic", spec, Stats())
    assert set(line.reporter.rules) == set(settings.rules)


def test_there_is_an_example_of_every_type() -> None:
    assert {name for example in EXAMPLES for name in re.findall(r"type: (\w+)", example)} == set(edges.known("rule"))


@pytest.mark.parametrize("name", edges.known("rule"))
def test_every_option_is_explained(name: str) -> None:
    section = re.search(rf"^## `{name}`\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert section, name
    first_cells = [row.split("|")[1] for row in section[1].splitlines() if row.startswith("| `")]
    explained = {option for cell in first_cells for option in re.findall(r"`(\w+)`", cell)}
    assert explained == set(edges.edge_config("rule", name).model_fields) - {"type"}
