"""Sites for the tests of what Home Assistant is told."""

from pathlib import Path

from streamer import config, edges
from streamer.core import Site, StreamRules
from streamer.rules.base import Tunable
from streamer.settings import Settings

ROOT = Path(__file__).parent.parent.parent
MIC = StreamRules(
    "mic",
    {"smoke_alarm": ("Smoke detector, smoke alarm",), "dog-bark": ("Bark", "Yip"), "barks_all_night": ("Bark", "Yip")},
    frozenset({"smoke_alarm", "dog-bark"}),
)
GARAGE = Site("garage", (MIC,))


def site_of(settings: Settings) -> Site:
    """What the daemon would tell its sinks."""
    rules = {name: settings.rules_of(name) for name in settings.streams}
    return Site(
        settings.node,
        tuple(
            StreamRules(
                stream,
                {name: tuple(getattr(rule, "labels", ())) for name, rule in of_stream.items()},
                frozenset(name for name, rule in of_stream.items() if isinstance(rule, Tunable)),
            )
            for stream, of_stream in rules.items()
        ),
    )


def default_site() -> Site:
    """The site of the default configuration."""
    return site_of(config.load(ROOT / "config.yaml", edges.edge_config))
