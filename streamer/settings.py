"""What can be configured: strict, frozen models, and what each option means. `config` reads them from a file."""

import json
import re
from typing import Annotated, Any, Literal, Self
from unicodedata import normalize

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializeAsAny,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from streamer.document import Document, dotted

FRAME_S = 0.01  # one fbank row; a hop and a window are whole numbers of them
MOST_WINDOW_S = 60.0  # six times what AST is trained on; attention grows with the square, and 256 is a slip of 2.56
NAME = r"[a-z0-9_-]+"  # names stand in MQTT topics
DEVICE = r"auto|cpu|cuda(:[0-9]+)?"


def _check_name(name: str) -> str:
    if re.fullmatch(NAME, name):
        return name
    ascii_only = normalize("NFKD", name).encode("ascii", "ignore").decode()
    better = re.sub(r"[^a-z0-9_-]+", "_", ascii_only.lower()).strip("_")
    hint = f". Did you mean '{better}'?" if better else ""
    raise ValueError(f"the name '{name}' may hold only a-z, 0-9, _ and -{hint}")


Name = Annotated[str, AfterValidator(_check_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


def _check_frames(seconds: float) -> float:
    frames = round(seconds / FRAME_S)
    if abs(seconds / FRAME_S - frames) > 1e-6 or frames < 1:
        raise ValueError(f"must be a multiple of {FRAME_S} seconds, and at least {FRAME_S}, not {seconds:g}")
    return seconds


class ModelConfig(_Strict):
    """Which model runs, on what, and how much sound it looks at. `checkpoint` is a bundled name or a folder.

    `window_s` is that of the checkpoint if null.
    """

    checkpoint: Annotated[str, Field(min_length=1)] = "starter"
    backend: str = "auto"
    device: Annotated[str, Field(json_schema_extra={"pattern": f"^({DEVICE})$"})] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    window_s: Annotated[float, Field(le=MOST_WINDOW_S), AfterValidator(_check_frames)] | None = None

    @field_validator("device")
    @classmethod
    def _check_device(cls, device: str) -> str:
        if not re.fullmatch(DEVICE, device):
            raise ValueError(f"must be auto, cpu, cuda or cuda:N with the number of a GPU, not '{device}'")
        return device

    @property
    def window_frames(self) -> int | None:
        """Frames of a window; None: as many as the checkpoint's own."""
        return None if self.window_s is None else round(self.window_s / FRAME_S)

    @model_validator(mode="after")
    def _check_backend(self) -> Self:
        if self.backend == "openvino" and self.device not in {"auto", "cpu"}:
            raise ValueError(f"backend openvino runs on the CPU, not on device '{self.device}'; write 'cpu' or 'auto'")
        if self.dtype == "int8" and (self.backend == "local" or self.device not in {"auto", "cpu"}):
            raise ValueError("dtype int8 is for backend openvino, on the CPU; write 'backend: auto' and 'device: auto'")
        return self


class ScoresConfig(_Strict):
    """Readings of the highest scores, for people who set thresholds: the `top` labels, at most every `every_s`."""

    top: Annotated[int, Field(ge=1, le=100)] = 5
    every_s: Annotated[float, Field(ge=0.1)] = 5.0


class OutboxConfig(_Strict):
    """Where events wait until they are delivered, and how many of them for each sink: the oldest are dropped then."""

    path: str | None = Field(
        default="auto", min_length=1, description="an SQLite file; auto: in the state folder; null: in memory"
    )
    max_events: Annotated[int, Field(ge=1)] = 10_000
    max_mb: Annotated[float, Field(gt=0, description="millions of bytes of JSON")] = 16.0


class StreamConfig(_Strict):
    """One source's line.

    `late` says what happens when the model can't keep up: score only the newest window, or every one, however late;
    `auto` is every one for files, and for live sources the newest, at hops that are longer while it lasts. `rules`
    changes rules' options on this stream only; null or false switches a rule off there.
    """

    source: SerializeAsAny[BaseModel]
    hop_s: Annotated[float, AfterValidator(_check_frames)] = 1.0
    gate_dbfs: Annotated[float, Field(le=0)] | None = None
    late: Literal["auto", "latest", "every"] = "auto"
    scores: ScoresConfig | None = None
    rules: dict[Name, dict[str, Any] | bool | None] = {}

    @field_validator("rules", mode="before")
    @classmethod
    def _allow_empty(cls, section: object) -> object:
        return {} if section is None else section


class Settings(_Strict):
    """A whole, valid configuration.

    `keep_thresholds` keeps those that were set over MQTT when the daemon starts anew.
    """

    node: Name
    model: ModelConfig = ModelConfig()
    streams: Annotated[dict[Name, StreamConfig], Field(min_length=1)]
    rules: dict[Name, SerializeAsAny[BaseModel]] = {}
    sinks: dict[Name, SerializeAsAny[BaseModel]] = {}
    outbox: OutboxConfig = OutboxConfig()
    keep_thresholds: bool = False
    _document: Document | None = PrivateAttr(None)

    @field_validator("model", "rules", "sinks", "outbox", mode="before")
    @classmethod
    def _allow_empty(cls, section: object) -> object:
        return {} if section is None else section

    def model_post_init(self, context: Any) -> None:
        """Remember the file that validation was given as context."""
        self._document = context

    def rules_of(self, stream: str) -> dict[str, BaseModel]:
        """The rules that watch `stream`, by name, with its own options merged in."""
        changes = self.streams[stream].rules
        active = {name: rule for name, rule in self.rules.items() if changes.get(name, True) not in (None, False)}
        return {name: _changed(rule, changes.get(name)) for name, rule in active.items()}

    def same_rules(self, other: "Settings", stream: str) -> list[str]:
        """The rules that watch `stream` with the same options in both; it is in both."""
        rules = other.rules_of(stream)
        return [name for name, rule in self.rules_of(stream).items() if rule == rules.get(name)]

    def locate(self, *path: str | int) -> str:
        """Where a key stands, to begin a sentence about it: `config.yaml:14: rules.siren.labels`."""
        return self._document.locate(path) if self._document else dotted(path)


def _changed(rule: BaseModel, changes: Any) -> BaseModel:
    if not isinstance(changes, dict):
        return rule
    options = rule.model_dump(mode="json", exclude_unset=True) | changes
    return type(rule).model_validate_json(json.dumps(options), strict=False)  # they were checked on loading
