# make setup · demo · test · check · bench. Each target does all its own set-up; CI calls `check` and `test`.
PYTHON ?= python3
BIN := .venv/bin
# What the tests need from the system: a broker, PortAudio, a sound server. Installed where this is Debian and we are root.
DEBIAN := mosquitto mosquitto-clients openssl libportaudio2 pulseaudio pulseaudio-utils libasound2-plugins alsa-utils

.PHONY: setup demo test check bench system
setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("streamer needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Run: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

system:
	@command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] && command -v mosquitto_sub >/dev/null && command -v pulseaudio >/dev/null && PATH="$$PATH:/sbin:/usr/sbin" ldconfig -p | grep -q libportaudio || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(DEBIAN) >/dev/null; \
	else \
		echo "the tests need: $(DEBIAN) (Debian's names); install them and run again" >&2; exit 1; \
	fi

demo: setup
	$(BIN)/streamer demo

test: setup system
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m pip install --quiet --editable '.[test,bench]'
	$(BIN)/python bench
