"""Home Assistant's core with its MQTT integration, in the Python where it is installed; obeys lines on stdin.

In: the broker's port and a folder as arguments, then one JSON request a line. Out: an answer a line; a log on stderr.
Requests: {"states": null}; {"check": payload}: what its schemas say of a discovery payload; {"press": [domain, service,
data]}: calls a service; {"automate": [automation, …]}: sets them up; {"calls": null}: what these did.
"""

import asyncio
import importlib
import json
import logging
import socket
import sys
from typing import Any

from homeassistant import bootstrap, config_entries, loader
from homeassistant.components.mqtt import discovery, schemas
from homeassistant.const import __version__
from homeassistant.core import HomeAssistant, ServiceCall
from homeassistant.core_config import async_process_ha_core_config
from homeassistant.helpers import entity_registry
from homeassistant.setup import async_setup_component

FAKES = (("notify", "mobile_app_phone"), ("light", "turn_on"))  # what the handbook's automations call
calls: list[Any] = []


async def core(port: int, folder: str) -> HomeAssistant:
    """Start one that is connected to the broker at `port`."""
    hass = HomeAssistant(folder)
    hass.config.skip_pip = True
    loader.async_setup(hass)
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    await bootstrap.async_load_base_functionality(hass)
    await async_setup_component(hass, "homeassistant", {})
    await async_process_ha_core_config(hass, {})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        web = {"server_host": "127.0.0.1", "server_port": free.getsockname()[1]}
    await async_setup_component(hass, "http", {"http": web})
    await hass.async_start()
    user = {"source": config_entries.SOURCE_USER}
    flow = await hass.config_entries.flow.async_init("mqtt", context=user)
    done = await hass.config_entries.flow.async_configure(flow["flow_id"], {"broker": "127.0.0.1", "port": port})
    if done["type"] != "create_entry":
        raise RuntimeError(f"no MQTT: {done}")
    for domain, service in FAKES:
        hass.services.async_register(domain, service, note)
    return hass


async def note(call: ServiceCall) -> None:
    """Keep what an automation did."""
    calls.append([f"{call.domain}.{call.service}", dict(call.data)])


async def answer(hass: HomeAssistant, request: dict[str, Any]) -> Any:
    """Do what was asked."""
    match request:
        case {"states": None}:
            return {s.entity_id: {"state": s.state, **s.attributes} for s in hass.states.async_all()} | {
                "registered": sorted(entity_registry.async_get(hass).entities)
            }
        case {"check": payload}:
            return check(payload)
        case {"press": [domain, service, data]}:
            await hass.services.async_call(domain, service, data, blocking=True)
        case {"automate": automations}:
            return await async_setup_component(hass, "automation", {"automation": automations})
        case {"calls": None}:
            return calls
    return None


def check(payload: dict[str, Any]) -> dict[str, list[str]]:
    """Options by component that its platform's schema doesn't know; raises for what it refuses."""
    discovery._replace_all_abbreviations(payload)
    device = schemas.DEVICE_DISCOVERY_SCHEMA(payload)
    unknown = {}
    for key, component in device["components"].items():
        platform = importlib.import_module(f"homeassistant.components.mqtt.{component.pop('platform')}")
        component |= {"device": payload["device"], "origin": payload["origin"]}
        discovery._merge_common_device_options(component, device)
        unknown[key] = sorted(component.keys() - platform.DISCOVERY_SCHEMA(component).keys())
    return unknown


async def main(port: int, folder: str) -> None:
    """Obey until stdin ends."""
    hass = await core(port, folder)
    print(json.dumps({"version": __version__}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            said = await answer(hass, json.loads(line))
            await hass.async_block_till_done()
        except Exception as error:  # noqa: BLE001  the other side fails by it
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said, default=str), flush=True)
    await hass.async_stop(force=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(name)s %(levelname)s %(message)s")
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
