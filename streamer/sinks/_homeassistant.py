"""What Home Assistant is told so that it shows the node as one device: MQTT device discovery.

In: what a sink knows of its daemon, and the topics it publishes to. Out: payloads. Pure.
The frame bears Home Assistant's short names (`dev`, `o`, `cmps`, `p`), what is in it the long ones, as in its handbook.
"""

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from streamer.core import Phase, Site, StreamRules

BIRTH = "homeassistant/status"  # says `online` when Home Assistant has started; the same whatever the discovery prefix
ORIGIN = "streamer"
LEVEL_S = 60  # a level comes at each hop, about once a second; a slow machine with a large model takes many
STATS_S = 90  # they come every 30 s; one may be lost
# Labels that are smoke's own sound. `Siren` or `Crackle` may be anything, and a wrong class is a wrong icon and text.
SMOKE = {"Smoke detector, smoke alarm", "Fire alarm"}
# Of a stream's status. Without a template Home Assistant would take `stalled` and `paused` for nothing said.
IS_ONLINE = "{{ 'online' if value == 'online' else 'offline' }}"
IS_DEAF = "{{ 'ON' if value in ('stalled', 'offline') else 'OFF' }}"
KEY = re.compile(r"[a-z0-9_.-]+")  # of a component: names joined by dots, which stand in no name

Component = dict[str, Any]


def _is_topic(topic: str) -> str:
    if not all(topic.split("/")) or not set(topic).isdisjoint("+#\0"):
        raise ValueError(f"'{topic}' is no topic; allowed: levels joined by '/', none empty, no '+' or '#'")
    return topic


Topic = Annotated[str, AfterValidator(_is_topic)]


class Discovery(BaseModel):
    """How Home Assistant finds us."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    discovery_prefix: Topic = Field(default="homeassistant", description="as in Home Assistant's MQTT options")


def discovery_topic(config: Discovery, site: Site) -> str:
    """Where the device is announced, retained."""
    return f"{config.discovery_prefix}/device/{site.node}/config"


def device(site: Site, base_topic: str) -> dict[str, Any]:
    """The whole node as one device: every stream, every rule, and how the daemon fares."""
    root = f"{base_topic}/{site.node}"
    name, release = f"{ORIGIN.capitalize()} {_words(site.node)}", version(ORIGIN)
    components = _process(root)
    for stream in site.streams:
        components |= _stream(root, stream)
        for rule, labels in stream.rules.items():
            components |= _rule(root, stream, rule, labels)
    for key, component in components.items():
        component["unique_id"] = f"{ORIGIN}.{site.node}.{key}"
        # What it makes of the names anyway, if it is older than 2025.10, which doesn't know this option.
        component["default_entity_id"] = f"{component['p']}.{_slug(name)}_{_slug(component['name'])}"
    return {
        "dev": {
            "ids": [f"{ORIGIN}.{site.node}"],
            "name": name,
            "mf": ORIGIN,
            "mdl": "Sound event detector",
            "sw": release,
        },
        "o": {"name": ORIGIN, "sw": release},
        "availability": [_while_node_is_there(root)],
        "availability_mode": "all",
        "qos": 1,
        "cmps": components,
    }


def removal(old: bytes, new: Mapping[str, Any]) -> dict[str, Any] | None:
    """What to publish before `new` so that Home Assistant forgets what was in `old` and is no more.

    Args:
        old: what lies on the broker, by an earlier life of ours or by anybody.
        new: what `device` gives now.

    Returns:
        `new` with the platforms alone of what left, or None where nothing did.
    """
    before = {key: {"p": platform} for key, platform in _platforms(old).items()}
    # One key can't both leave and come: of what changed its platform the new one waits for the next payload.
    left = {key: gone for key, gone in before.items() if new["cmps"].get(key, {}).get("p") != gone["p"]}
    # First: Home Assistant ignores what stands behind a component that it is still busy with.
    return {**new, "cmps": {**left, **{k: c for k, c in new["cmps"].items() if k not in left}}} if left else None


def _platforms(payload: bytes) -> dict[str, str]:
    """The platform of each component by its key; none where the payload isn't one of ours."""
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    match document:
        case {"o": {"name": origin}, "cmps": dict(components)} if origin == ORIGIN:
            return {key: c["p"] for key, c in components.items() if KEY.fullmatch(key) and _has_platform(c)}
    return {}


def _has_platform(component: Any) -> bool:
    return isinstance(component, dict) and isinstance(component.get("p"), str) and bool(KEY.fullmatch(component["p"]))


# -- components, by a key that has one part for the node's, two for a stream's, three for a rule's: so none meet -------


def _process(root: str) -> dict[str, Component]:
    """How the daemon fares, from its `stats`: each by name, what it reads, and what else Home Assistant should know."""
    readings: dict[str, tuple[str, str, Component]] = {
        "load": ("Model load", "(value_json.real_time_factor * 100) | round(1)", {"unit_of_measurement": "%"}),
        "latency": (
            "Latency",
            "value_json.latency_ms.p95 if value_json.latency_ms is defined else none",
            {"device_class": "duration", "unit_of_measurement": "ms"},
        ),
        "skipped": ("Skipped windows", "value_json.skipped | default(0)", {"state_class": "total_increasing"}),
        "pending": ("Pending events", "value_json.pending_events", {}),
        "dropped": ("Dropped events", "value_json.dropped_events", {"state_class": "total_increasing"}),
    }
    return {
        key: {
            "p": "sensor",
            "name": name,
            "state_topic": f"{root}/stats",
            "value_template": f"{{{{ {value} }}}}",
            "state_class": "measurement",
            "expire_after": STATS_S,
            "entity_category": "diagnostic",
            **more,
        }
        for key, (name, value, more) in readings.items()
    }


def _stream(root: str, stream: StreamRules) -> dict[str, Component]:
    """A stream's own.

    Its events may come late, even the end that tells of its stall; its switch and whether it is deaf matter most when
    it doesn't listen: these are there as long as the node is.
    """
    name, words = stream.stream_id, _capitalised(stream.stream_id)
    topic = f"{root}/{name}"
    return {
        f"{name}.event": {
            "p": "event",
            "name": f"{words} event",
            "state_topic": f"{topic}/event",
            "event_types": [phase.value for phase in Phase],
            "icon": "mdi:ear-hearing",
        },
        f"{name}.deaf": {
            "p": "binary_sensor",
            "name": f"{words} deaf",
            "state_topic": f"{topic}/status",
            "value_template": IS_DEAF,
            "device_class": "problem",
            "entity_category": "diagnostic",
        },
        f"{name}.listening": {
            "p": "switch",
            "name": f"{words} listening",
            "state_topic": f"{topic}/listening/state",
            "command_topic": f"{topic}/listening/set",
            "icon": "mdi:microphone",
        },
        f"{name}.level": _level(root, name),
    }


def _level(root: str, stream: str) -> Component:
    return {
        "p": "sensor",
        "name": f"{_capitalised(stream)} level",
        "state_topic": f"{root}/{stream}/level",
        "value_template": "{{ value_json.rms_dbfs }}",
        "unit_of_measurement": "dBFS",  # of full scale, no sound pressure: there's no device class for it
        "state_class": "measurement",
        "expire_after": LEVEL_S,
        "availability": _while_listening(root, stream),
    }


def _rule(root: str, stream: StreamRules, rule: str, labels: tuple[str, ...]) -> dict[str, Component]:
    """A rule's state, which is nobody's knowledge while its stream doesn't listen."""
    topic, name = f"{root}/{stream.stream_id}/{rule}", f"{_capitalised(stream.stream_id)} {_words(rule)}"
    key = f"{stream.stream_id}.{rule}"
    state: Component = {
        "p": "binary_sensor",
        "name": name,
        "state_topic": f"{topic}/state",
        "value_template": "{{ value_json.state }}",
        "json_attributes_topic": f"{topic}/state",
        "availability": _while_listening(root, stream.stream_id),
    }
    if rule not in stream.tunable:  # it watches others, and what it means may be the absence of a sound
        return {f"{key}.state": state}
    state["device_class"] = "smoke" if labels and SMOKE.issuperset(labels) else "sound"
    threshold: Component = {
        "p": "number",
        "name": f"{name} threshold",
        "state_topic": f"{topic}/threshold/state",
        "command_topic": f"{topic}/threshold/set",
        "min": 0,
        "max": 1,
        "step": 0.01,
        "mode": "box",
        "entity_category": "config",
    }
    return {f"{key}.state": state, f"{key}.threshold": threshold}


def _while_node_is_there(root: str) -> dict[str, str]:
    return {"topic": f"{root}/status"}


def _while_listening(root: str, stream: str) -> list[dict[str, str]]:
    return [_while_node_is_there(root), {"topic": f"{root}/{stream}/status", "value_template": IS_ONLINE}]


def _words(name: str) -> str:
    """A name of ours for people: `smoke_alarm` is `smoke alarm`; one of dashes only stays."""
    return re.sub(r"[-_]+", " ", name).strip() or name


def _capitalised(name: str) -> str:
    words = _words(name)
    return words[0].upper() + words[1:]


def _slug(name: str) -> str:
    """An entity's id as Home Assistant makes it of a name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
