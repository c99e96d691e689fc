"""What a configuration may not name: rules and labels that are not there. With the real types of rules."""

import pytest

from streamer import config, edges
from streamer.errors import ConfigError
from streamer.settings import Settings
from tests.fakes import spec_of

TEXT = """\
node: garage
streams:
  mic: {{source: {{type: file, path: a.wav}}, rules: {stream}}}
rules:
  bark: {{type: threshold, labels: [Bark]}}
  many: {{type: count, rule: bark, n: 5, within_s: 600}}
  one: {one}
  two: {two}
"""
BARK = "{type: threshold, labels: [Bark]}"


def parse(one: str = BARK, two: str = BARK, stream: str = "{}") -> Settings:
    text = TEXT.format(one=one, two=two, stream=stream)
    return config.parse(text, "c.yaml", edges.edge_config, lambda name: spec_of("Bark", "Siren", "Rain"))


def mistakes(*args: str, **options: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(*args, **options)
    return list(caught.value.mistakes)


LABELS = "run 'streamer labels' for the list"


@pytest.mark.parametrize(("one", "sentence"), [
    ("{type: absence, rule: brak, for_s: 60}",
     "c.yaml:7: rules.one.rule: unknown rule 'brak'; known: bark, many, two. Did you mean 'bark'?"),
    ("{type: sequence, rules: [bark, glass], within_s: 30}",
     "c.yaml:7: rules.one.rules[1]: unknown rule 'glass'; known: bark, many, two"),
    ("{type: absence, rule: one, for_s: 60}",
     "c.yaml:7: rules.one.rule: a rule can't watch itself; name another one"),
    ("{type: sequence, rules: [one, bark], within_s: 30}",
     "c.yaml:7: rules.one.rules[0]: a rule can't watch itself; name another one"),
    ("{type: sequence, rules: [bark, bark], within_s: 30}",
     "c.yaml:7: rules.one.rules: 'bark' stands in it twice; a rule of type count counts events of one rule"),
    ("{type: threshold, labels: Bark}",
     """c.yaml:7: rules.one.labels: must be a list or 'any', not 'Bark'; write ["Bark"]"""),
    ("{type: threshold, labels: [any]}",
     "c.yaml:7: rules.one.labels[0]: unknown label 'any'; write labels: any, without brackets"),
    ("{type: sequence, rules: [bark], within_s: 30}",
     "c.yaml:7: rules.one.rules: must be at least 2 long, not 1"),
    ("{type: threshold, labels: []}",
     "c.yaml:7: rules.one.labels: must not be empty"),
    ("{type: threshold, labels: [Loud], groups: {Loud: [Siren, Sirene]}}",
     f"c.yaml:7: rules.one.groups.Loud[1]: unknown label 'Sirene'; {LABELS}. Did you mean 'Siren'?"),
    ("{type: threshold, labels: any, thresholds: {Barks: {onset: 0.7, offset: 0.5}}}",
     f"c.yaml:7: rules.one.thresholds.Barks: unknown label 'Barks'; {LABELS}. Did you mean 'Bark'?"),
    ("{type: threshold, labels: [Bark], unless: [Radio]}",
     f"c.yaml:7: rules.one.unless[0]: unknown label 'Radio'; {LABELS}. Did you mean 'Rain'?"),
    ("{type: threshold, labels: any, instant: [Bell]}",
     f"c.yaml:7: rules.one.instant[0]: unknown label 'Bell'; {LABELS}"),
    ("{type: threshold, labels: any, groups: {Dog: [Bark], Loud: [Siren], Bark: [Siren]}, instant: [Loud]}",
     ("c.yaml:7: rules.one.groups.Dog: 'Dog' is used nowhere: any label is listened for without it; "
      "remove it, or give it thresholds")),
    ("{type: threshold, labels: any, groups: {Dog: [Bark, Siren]}, unless: [Dog, Rain]}",
     ("c.yaml:7: rules.one.unless: unless names every label of the model, and nothing is left to listen for; "
      "remove some")),
    ("{type: threshold, labels: any, unless: [Rain], thresholds: {Rain: {onset: 0.5, offset: 0.4}}}",
     "c.yaml:7: rules.one: thresholds: 'Rain' is not listened for, as unless names it; remove it from one of them"),
    ("{type: threshold, labels: [Bark], thresholds: {Bark: {onset: 0.4, offset: 0.5}}}",
     "c.yaml:7: rules.one.thresholds.Bark: offset 0.5 is above onset 0.4; it must be at or below it"),
    ("{type: threshold, labels: [Bark], thresholds: {Bark: {onset: 0.4}}}",
     "c.yaml:7: rules.one.thresholds.Bark.offset: required, but not given"),
    ("{type: threshold, labels: [Bark], schedule: {hours: 22:00, time_zone: UTC}}",
     """c.yaml:7: rules.one.schedule.hours: must be text, not 22:00; write "22:00\""""),
    ("{type: threshold, labels: [Bark], schedule: [{time_zone: Europe/Berln}]}",
     ("c.yaml:7: rules.one.schedule[0].time_zone: unknown time zone 'Europe/Berln'; "
      "give one as Europe/Berlin, America/New_York or UTC. Did you mean 'Europe/Berlin'?")),
    ("{type: threshold, labels: [Bark], schedule: {days: [mo], time_zone: UTC}}",
     ("c.yaml:7: rules.one.schedule.days[0]: must be 'mon', 'tue', 'wed', 'thu', 'fri', 'sat' or 'sun', not 'mo'. "
      "Did you mean 'mon'?")),
    ("{type: threshold, labels: [Bark], release_s: .inf}",
     "c.yaml:7: rules.one.release_s: must be a finite number, not .inf"),
    ("{type: threshold, labels: [Bark], max_duration_s: .inf}",
     "c.yaml:7: rules.one.max_duration_s: must be a finite number, not .inf"),
    ("{type: threshold, labels: [Bark], min_level_dbfs: -.inf}",
     "c.yaml:7: rules.one.min_level_dbfs: must be a finite number, not -.inf"),
    ("{type: threshold, labels: [Bark], thresholds: {Bark: {onset: .nan, offset: 0.5}}}",
     "c.yaml:7: rules.one.thresholds.Bark.onset: must be a finite number, not .nan"),
    ("{type: threshold, labels: [Bark], smooth_windows: 51}",
     "c.yaml:7: rules.one.smooth_windows: must be at most 50, not 51"),
    ("{type: absence, rule: bark, for_s: .inf}",
     "c.yaml:7: rules.one.for_s: must be a finite number, not .inf"),
    ("{type: count, rule: bark, n: 5, within_s: .inf}",
     "c.yaml:7: rules.one.within_s: must be a finite number, not .inf"),
    ("{type: sequence, rules: [bark, two], within_s: .nan}",
     "c.yaml:7: rules.one.within_s: must be a finite number, not .nan"),
    ("{type: absence, rule: bark, for_s: 1.0e+308}",
     "c.yaml:7: rules.one.for_s: must be at most 604800, not 1.0e+308"),
    ("{type: threshold, labels: [Bark], merge_gap_s: 3}",
     ("c.yaml:7: rules.one.merge_gap_s: unknown key 'merge_gap_s'; known: groups, instant, labels, max_duration_s, "
      "min_duration_s, min_level_dbfs, min_windows, of_windows, offset_threshold, onset_threshold, refractory_s, "
      "release_s, schedule, smooth_windows, smoothing, thresholds, type, unless, unless_threshold")),
])  # fmt: skip
def test_each_mistake_has_its_sentence(one: str, sentence: str) -> None:
    assert mistakes(one) == [sentence]


def test_rules_can_not_watch_each_other_in_a_circle() -> None:
    one, two = "{type: absence, rule: two, for_s: 60}", "{type: sequence, rules: [bark, one], within_s: 30}"
    assert mistakes(one, two) == [
        "c.yaml:8: rules.two: watches 'one', which watches 'two'; rules can't watch each other in a circle"
    ]


def test_a_rule_can_not_watch_one_that_is_off_on_a_stream() -> None:
    said = "rule 'many' watches it, and is on here; switch that off too, or leave this on"
    assert mistakes(stream="{bark: false}") == [f"c.yaml:3: streams.mic.rules.bark: {said}"]
    settings = parse(stream="{bark: false, many: null}")
    assert sorted(settings.rules_of("mic")) == ["one", "two"]


@pytest.mark.parametrize(("option", "name"), [
    ("refractory_s: 300", "refractory_s"),
    ("unless: [Rain]", "unless"),
    ("min_level_dbfs: -50.0", "min_level_dbfs"),
    ("min_level_dbfs: 0", "min_level_dbfs"),
    ("schedule: {days: [sat], time_zone: UTC}", "schedule"),
    ("unless: [Rain], refractory_s: 9", "refractory_s and unless"),
])  # fmt: skip
def test_absence_can_not_watch_what_may_sound_and_not_be_told(option: str, name: str) -> None:
    kept = f"{{type: threshold, labels: [Siren], {option}}}"
    said = f"what 'two' may not start for its {name} would be taken for silence; watch a rule without"
    assert mistakes("{type: absence, rule: two, for_s: 60}", kept) == [f"c.yaml:7: rules.one.rule: {said}"]
    plain = "{type: threshold, labels: [Siren], refractory_s: 0, unless: [], min_level_dbfs: null, schedule: []}"
    assert parse("{type: absence, rule: two, for_s: 60}", plain).rules.keys() == {"bark", "many", "one", "two"}


def test_absence_can_not_watch_it_from_afar_nor_on_one_stream() -> None:
    one, two = "{type: absence, rule: many, for_s: 60}", "{type: threshold, labels: [Rain], refractory_s: 5}"
    said = "what 'bark' may not start for its refractory_s would be taken for silence; watch a rule without"
    assert mistakes(one, stream="{bark: {refractory_s: 5}}") == [f"c.yaml:3: streams.mic.rules.one.rule: {said}"]
    assert parse(one, two, stream="{bark: {refractory_s: 5}, one: off}").rules_of("mic").keys() == {
        "bark", "many", "two",
    }  # fmt: skip


def test_what_a_stream_watches_is_looked_at_too() -> None:
    one = "{type: absence, rule: bark, for_s: 60}"
    assert mistakes(one, stream="{one: {rule: tow}, many: {rule: many}}") == [
        "c.yaml:3: streams.mic.rules.one.rule: unknown rule 'tow'; known: bark, many, two. Did you mean 'two'?",
        "c.yaml:3: streams.mic.rules.many.rule: a rule can't watch itself; name another one",
    ]
    assert mistakes(one, stream="{one: {rule: many}, many: {rule: one}}") == [
        ("c.yaml:3: streams.mic.rules.many: watches 'one', which watches 'many'; "
         "rules can't watch each other in a circle"),
    ]
    assert parse(one, stream="{one: {rule: two}, bark: off, many: off}").rules_of("mic").keys() == {"one", "two"}


def test_a_stream_can_use_the_rules_groups() -> None:
    one = "{type: threshold, labels: [Loud], groups: {Loud: [Siren, Bark]}}"
    assert parse(one, stream="{one: {labels: [Loud, Rain]}}").rules_of("mic")["one"].model_dump()["labels"] == [
        "Loud", "Rain",
    ]  # fmt: skip
    assert mistakes(one, stream="{one: {labels: [Lound, Loud]}}") == [
        f"c.yaml:3: streams.mic.rules.one.labels[0]: unknown label 'Lound'; {LABELS}"
    ]


def test_no_mistake_shows_a_rules_name_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hush")
    [said] = mistakes("{type: absence, rule: '${SECRET}', for_s: 60}")
    assert "hush" not in said


def test_the_schema_knows_every_type_of_rule() -> None:
    rules = config.schema(edges.edge_configs())["properties"]["rules"]["patternProperties"]
    assert set(rules["^[a-z0-9_-]+$"]["discriminator"]["mapping"]) == {"absence", "count", "sequence", "threshold"}


def test_the_effective_configuration_can_be_read_again() -> None:
    one = """{type: threshold, labels: any, groups: {Bark: [Siren]}, thresholds: {Rain: {onset: 0.9, offset: 0.8}},
              schedule: [{days: [sat], hours: 22:00-06:00, time_zone: Europe/Berlin}]}"""
    text = config.effective(parse(one))
    assert config.effective(config.parse(text, "c.yaml", edges.edge_config)) == text
