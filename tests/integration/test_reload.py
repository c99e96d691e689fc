"""The daemon told to read its configuration again."""

import signal

from tests.integration.broker import Broker
from tests.integration.daemon import Daemon, Subscriber
from tests.integration.test_run import FILE, write_scene

SIREN = '\n  siren: {type: threshold, labels: ["Siren"]}\nsinks:'


def test_a_good_configuration_takes_over_and_a_bad_one_is_refused(tmp_path):
    scene = write_scene(tmp_path / "scene.wav", 60.0, ((1.0, 55.0),))
    with Broker(tmp_path) as broker, Subscriber(broker.port) as heard:
        config = FILE.format(path=scene, realtime="true", port=broker.port)
        with Daemon(config, tmp_path) as daemon:
            path = tmp_path / "config.yaml"
            at, start = heard.wait_for_event("start")
            path.write_text(config.replace("threshold,", "treshold,"))
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_for("the old configuration stays")
            assert "unknown rule 'treshold'" in daemon.log
            path.write_text(config.replace("\nsinks:", SIREN))
            daemon.process.send_signal(signal.SIGHUP)
            at, end = heard.wait_for_event("end", after=at)
            assert (end["id"], end["end_reason"]) == (start["id"], "reload")
            heard.wait("the new rule's state", lambda topic, _: topic.endswith("/room/siren/state"), after=at)
            at, again = heard.wait_for_event("start", after=at)
            assert again["id"] != start["id"]
            code, took_s = daemon.stop()
            assert (code, took_s < 5) == (0, True)
            heard.wait_for("streamer/garage/status", "offline", after=at)
