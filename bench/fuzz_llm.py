"""Hostile answers of a language model, as many as asked: python -m bench.fuzz_llm [N [SEED]].

Each must be refused in a sentence (BadAnswer) or become a proposal that bounds.check accepts, and those whose fate is
known must meet it; what does anything else is printed, and the run ends with status 1. The answers are those of
tests/meta_controller/hostile_answers.py, of which the suite tries 10,000. Rates are of CPU time, without making the
answers. A hostile answer is judged beside json.loads of its text, which finds out no more than whether it is JSON; a
sound one beside json.loads and pydantic's model_validate of it, which look neither around it nor at the bounds.

Verdict (2 shared cores, other work beside it, 2026-11; seed 11): of 100,000 none was taken wrongly, 18,937 were
accepted; 9,000 answers/s, 0.05 of json.loads alone, and 11,600 sound ones/s, 0.27 of pydantic. One answer an hour is
asked for.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from random import Random
from typing import TypeVar

from bench.workbench import Row, print_rows
from meta_controller.bounds import check
from meta_controller.llm_answer import Answer, BadAnswer, parse_answer, to_proposal
from tests.meta_controller.hostile_answers import (
    DECOY_RISK_AVERSION,
    STRATEGIES,
    Hostile,
    hostile_answers,
    sound_answer,
)

TRIED, SEED = 100_000, 7
CHUNK = 5_000  # made, then judged: memory does not grow with N
SOUND, ROUNDS = 500, 5
FINE = ("accepted", "refused")
Given = TypeVar("Given")


def fate(hostile: Hostile) -> str:
    """One of FINE, or what is wrong with the way in which ``hostile`` was taken."""
    try:
        proposal = to_proposal(parse_answer(hostile.text, STRATEGIES))
    except BadAnswer as refused:
        return f"refused, though sound: {refused}" if hostile.sound else "refused"
    except Exception as error:  # the very thing that is looked for
        return f"uncaught {error!r}"
    if problems := check(proposal):
        return f"out of bounds: {problems[0]}"
    if proposal.steering.risk_aversion == DECOY_RISK_AVERSION:
        return "a decoy was taken"
    return "accepted, though it must not be" if hostile.sound is False else "accepted"


def read_as_json(texts: Sequence[str]) -> None:
    for text in texts:
        with suppress(ValueError, RecursionError):
            json.loads(text)


def validate(texts: Sequence[str]) -> None:
    for text in texts:
        Answer.model_validate(json.loads(text), context={"strategies": STRATEGIES})


def cpu_seconds(work: Callable[[Sequence[Given]], None], given: Sequence[Given]) -> float:
    began = time.process_time()
    work(given)
    return time.process_time() - began


def fuzz(tried: int, seed: int) -> tuple[Counter[str], Row]:
    """How many answers met which fate, and the rate."""
    answers, fates = hostile_answers(seed), Counter[str]()
    own = reference = 0.0

    def judge(chunk: Sequence[Hostile]) -> None:
        for hostile in chunk:
            met = fate(hostile)
            fates[met] += 1
            if met not in FINE:
                print(f"number {fates.total()} of seed {seed} ({hostile.kind}): {met}\n  {hostile.text[:2000]!r}")

    for done in range(0, tried, CHUNK):
        chunk = list(islice(answers, min(CHUNK, tried - done)))
        own += cpu_seconds(judge, chunk)
        reference += cpu_seconds(read_as_json, [hostile.text for hostile in chunk])
    wrong = tried - sum(fates[fine] for fine in FINE)
    return fates, Row(f"{tried:,} hostile answers judged, {wrong} wrongly", tried / own, "answers/s",
                      "json.loads of the same texts", tried / reference, reference / own)  # fmt: skip


def sound() -> Row:
    rng = Random(SEED)
    texts = [json.dumps(sound_answer(rng)) for _ in range(SOUND)]

    def parse(texts: Sequence[str]) -> None:
        for text in texts:
            parse_answer(text, STRATEGIES)

    own, reference = (min(cpu_seconds(work, texts) for _ in range(ROUNDS)) for work in (parse, validate))
    return Row("sound answers parsed", SOUND / own, "answers/s", "json.loads and pydantic's model_validate",
               SOUND / reference, reference / own)  # fmt: skip


def main() -> None:
    asked = [int(argument) for argument in sys.argv[1:]]
    fates, row = fuzz(*(asked + [TRIED, SEED][len(asked) :]))
    print(", ".join(f"{n:,} {met}" for met, n in sorted(fates.items())))
    print_rows([row, sound()])
    if set(fates) - set(FINE):
        sys.exit(1)


if __name__ == "__main__":
    main()
