"""What the options of every type of rule have in common."""

from typing import Annotated

from pydantic import ConfigDict, Field

LONGEST_S = 7 * 86400.0  # a week; of far more, as of 1e305, the samples could not be counted

Seconds = Annotated[float, Field(ge=0, le=LONGEST_S)]
Span = Annotated[float, Field(gt=0, le=LONGEST_S)]  # seconds too, but some

# Nothing is converted, changed later, or unknown; every number is finite.
OPTIONS = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)
