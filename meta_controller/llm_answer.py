"""What a language model may answer, typed: the strategist's calls and steering, and the reading of a news item.

Strict: no text or boolean passes for a number, no field is missing, extra or named twice, no number is infinite. An
answer that is anything else is rejected as a whole (BadAnswer); what passes is a Proposal that bounds.check accepts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from meta_controller.bounds import BOUNDS, LONGEST_REASONS, TRIPLES, check
from meta_controller.controller import LONG_HORIZON_S, SHORT_HORIZON_S, HorizonCall, Proposal, Steering
from meta_controller.json_text import BadAnswer, object_in

__all__ = [
    "Answer", "BadAnswer", "NewsAnswer", "answer_json", "answer_schema", "news_schema", "parse_answer", "parse_news",
    "to_proposal",
]  # fmt: skip

LONGEST_SAID = {"reasons": 1200, "would_change_my_mind": 600}  # characters
SUM_SLACK = 0.02  # what rounding to two digits may add up to
EXACT = 1e-12  # a sum this near to 1 is left as it is, so that an answer that was parsed before stays the same
HORIZON_NAMES = {SHORT_HORIZON_S: "4h", LONG_HORIZON_S: "24h"}
DOUBT = " What would change this: "
# Neither seen nor meant to be: controls, halves of surrogate pairs, zero widths, text directions, tags and
# selectors without a picture. White space among them becomes a space.
UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)

Topic = Literal["regulation", "security", "macro", "adoption", "technology", "market", "other"]
TOPICS: tuple[Topic, ...] = get_args(Topic)


def clean(text: Any) -> Any:
    """A text on one line, without what a reader cannot see; PostgreSQL can store all that is left."""
    return " ".join(UNSEEN.sub("", text).split()) if isinstance(text, str) else text


def _sums_to_one(values: Mapping[str, float]) -> dict[str, float]:
    """The same shares, divided by their sum where that is within SUM_SLACK of 1: it is then 1 but for rounding."""
    total = sum(values.values())
    if abs(total - 1.0) > SUM_SLACK + EXACT:
        raise ValueError(f"{' + '.join(values)} is {total:.6g}, not 1")
    if abs(total - 1.0) <= EXACT:
        return dict(values)
    return {name: value / total for name, value in values.items()}


Share = Annotated[float, Field(ge=0, le=1)]
Signed = Annotated[float, Field(ge=-1, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class CallAnswer(_Strict):
    """The call for one horizon. Each triple is normalised: what sums to 0.98 … 1.02 then sums to 1 within 1e-9."""

    p_down: Share
    p_flat: Share
    p_up: Share
    p_vol_low: Share
    p_vol_mid: Share
    p_vol_high: Share
    conviction: Signed

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, said: Any) -> Any:
        if not isinstance(said, dict):
            return said
        for names in TRIPLES:
            triple = {name: said.get(name) for name in names}
            if all(isinstance(value, float) and 0.0 <= value <= 1.0 for value in triple.values()):
                said = said | _sums_to_one(triple)  # type: ignore[arg-type]
        return said


class CallAnswers(_Strict):
    short: CallAnswer = Field(alias=HORIZON_NAMES[SHORT_HORIZON_S])
    long: CallAnswer = Field(alias=HORIZON_NAMES[LONG_HORIZON_S])


class SteeringAnswer(_Strict):
    """The columns of policy_config that a controller decides, but for the strategies' weights; held to BOUNDS."""

    risk_aversion: float
    turnover_penalty: float
    drawdown_penalty: float
    target_volatility: float
    max_exposure: float
    max_position: float
    daily_loss_limit: float
    max_drawdown: float
    pause: bool


class Answer(_Strict):
    """What the strategist said, normalised and cleaned: as it is stored, replayed and turned into a proposal."""

    calls: CallAnswers
    steering: SteeringAnswer
    strategy_weights: dict[str, Share]
    reasons: Annotated[str, Field(min_length=1, max_length=LONGEST_SAID["reasons"]), BeforeValidator(clean)]
    would_change_my_mind: Annotated[str, Field(max_length=LONGEST_SAID["would_change_my_mind"]), BeforeValidator(clean)]

    @field_validator("strategy_weights", mode="before")
    @classmethod
    def _only_allowed(cls, said: Any, info: ValidationInfo) -> Any:
        """An allowed strategy that is not named gets 0; any other name is refused."""
        assert info.context is not None, "parse_answer says which strategies are allowed"
        allowed: Sequence[str] = info.context["strategies"]
        if not isinstance(said, dict):
            return said
        if not said.keys() <= set(allowed):
            raise ValueError(f"may name only {', '.join(allowed)}")
        return {name: said.get(name, 0.0) for name in allowed}

    @field_validator("strategy_weights")
    @classmethod
    def _normalise(cls, weights: dict[str, float]) -> dict[str, float]:
        return _sums_to_one(weights)


class NewsAnswer(_Strict):
    """What a news item comes down to: fixed words and numbers."""

    topic: Topic
    sentiment: Signed
    relevance: Share


Model = TypeVar("Model", bound=_Strict)


def parse_answer(text: str, strategies: Sequence[str]) -> Answer:
    """The strategist's answer in ``text``; ``strategies`` are those that it may weigh.

    Probabilities and weights that sum to 1 within SUM_SLACK are divided by their sum, and then sum to 1 within 1e-9.
    The same text gives the same answer, byte for byte (``answer_json``), and an answer's own JSON gives it again.
    BadAnswer for anything else, whatever the text: nothing else is raised.
    """
    answer = _validated(Answer, object_in(text), {"strategies": strategies})
    if problems := check(to_proposal(answer)):
        raise BadAnswer(problems[0])
    return answer


def parse_news(text: str) -> NewsAnswer:
    """The reading of a news item in ``text``; BadAnswer for anything else."""
    return _validated(NewsAnswer, object_in(text))


def _validated(model: type[Model], said: dict[str, Any], context: dict[str, Any] | None = None) -> Model:
    try:
        return model.model_validate(said, context=context)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    raise BadAnswer(_sentence(first["type"], first["loc"], first.get("ctx", {})))


WORDS = {
    "missing": "is missing",
    "float_type": "is not a number",
    "bool_type": "is neither true nor false",
    "string_type": "is not a text",
    "string_too_short": "holds no text",
    "string_too_long": "is longer than {max_length} characters",
    "greater_than_equal": "is less than {ge:g}",
    "less_than_equal": "is more than {le:g}",
    "literal_error": "is none of {expected}",
    "value_error": "{error}",
    "model_type": "is not an object",
    "dict_type": "is not an object",
    "extra_forbidden": "has a field that was not asked for",
    "string_unicode": "has a field whose name is not Unicode text",
}


def _sentence(kind: str, where: tuple[int | str, ...], context: Mapping[str, Any]) -> str:
    """The first problem that pydantic found, in our own names: a field that was not asked for is not repeated."""
    if kind == "extra_forbidden":
        where = where[:-1]
    words = WORDS.get(kind, "is not what was asked for").format(**context)
    return f"{'.'.join(map(str, where)) or 'the answer'} {words}"


def to_proposal(answer: Answer) -> Proposal:
    """The answer as a controller's proposal; both calls carry its reasons, the whole also what would change them."""
    steering = Steering(**answer.steering.model_dump(), strategy_weights=answer.strategy_weights)
    calls = (
        HorizonCall(SHORT_HORIZON_S, **answer.calls.short.model_dump(), reasons=answer.reasons),
        HorizonCall(LONG_HORIZON_S, **answer.calls.long.model_dump(), reasons=answer.reasons),
    )
    doubt = DOUBT + answer.would_change_my_mind if answer.would_change_my_mind else ""
    return Proposal(calls, steering, (answer.reasons + doubt)[:LONGEST_REASONS])


def answer_json(answer: Answer | NewsAnswer) -> dict[str, Any]:
    """The answer as objects, texts, booleans and finite floats, in the order of the schema: what is stored."""
    return answer.model_dump(by_alias=True)


def answer_schema(strategies: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of the strategist's answer, for structured outputs with strict = true.

    Within what every such endpoint understands: all properties required, no others, no limits of numbers or lengths;
    those are said in descriptions, and held by parse_answer.
    """
    shares = {name: _number("0 to 1") for names in TRIPLES for name in names}
    call = _object(shares | {"conviction": _number("-1 (sure fall) to 1 (sure rise)")})
    steering = {name: _number(f"{low:g} to {high:g}") for name, (low, high) in BOUNDS.items()}
    return _object(
        {
            "calls": _object(dict.fromkeys(HORIZON_NAMES.values(), call)),
            "steering": _object(steering | {"pause": {"type": "boolean", "description": "true: no entries"}}),
            "strategy_weights": _object({name: _number("0 to 1; all sum to 1") for name in strategies}),
        }
        | {name: {"type": "string", "description": f"at most {most} characters"} for name, most in LONGEST_SAID.items()}
    )


def news_schema() -> dict[str, Any]:
    """The JSON schema of a news item's reading, for structured outputs with strict = true."""
    return _object(
        {
            "topic": {"type": "string", "enum": list(TOPICS)},
            "sentiment": _number("-1 (bad for prices) to 1 (good)"),
            "relevance": _number("0 to 1"),
        }
    )


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _number(description: str) -> dict[str, Any]:
    return {"type": "number", "description": description}
