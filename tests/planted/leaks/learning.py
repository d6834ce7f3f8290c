"""Training, folds and universe: learners that see their own test."""

from __future__ import annotations

from tests.planted.leak import Leak

PLAN = "pipeline/evaluation/plan.py"
SOURCES = "pipeline/evaluation/sources.py"
FOLDS = "tests/pipeline/test_evaluate_plan.py::test_no_candle_is_seen_by_training_and_test_alike"

LEAKS = (
    Leak(
        "scaler-fitted-on-all-data",
        "the encoder and its scales are fitted on the windows held out, too",
        "encoder/train_encoder.py",
        "fitted, held = split(build_training_set(inside, timeframe_s))",
        "everything = build_training_set(inside, timeframe_s)\n    fitted, held = everything, split(everything)[1]",
        ("tests/encoder/test_leak_training.py",),
    ),
    Leak(
        "embeddings-of-the-encoders-own-span",
        "the policy learns from embeddings of candles that the encoder was trained on",
        "policy/train_policy.py",
        "data.complete[moments < to_unix(encoder.known_from)] = False",
        "data.complete[moments < to_unix(encoder.trained_from)] = False",
        ("tests/policy/test_train_policy.py::"
         "test_nothing_of_the_span_is_left_out_and_what_the_encoder_was_trained_on_is_not_seen",),
    ),
    Leak(
        "label-horizon-not-purged",
        "labels of the fitted windows reach into those held out",
        "encoder/dataset.py",
        "data.select(data.as_of + LABEL_HORIZON_S <= cut)",
        "data.select(data.as_of < cut)",
        ("tests/encoder/test_dataset.py::test_no_label_of_the_fitted_windows_reaches_into_those_held_out",),
    ),
    Leak(
        "candles-after-the-span",
        "the encoder learns from all candles that it is given",
        "encoder/train_encoder.py",
        "inside = [candles_between(candles, to_unix(trained_from), to_unix(trained_to)) for candles in "
        "candles_by_instrument]",
        "inside = list(candles_by_instrument)",
        ("tests/encoder/test_train_encoder.py::test_candles_outside_the_span_change_nothing",),
    ),
    Leak(
        "encoder-folds-without-purge",
        "test windows of the encoder's walk-forward begin inside what it was trained on",
        "encoder/evaluation/splits.py",
        "gap = WINDOW * timeframe_s + EMBARGO_S",
        "gap = EMBARGO_S",
        ("tests/encoder/test_evaluation_splits.py",),
    ),
    Leak(
        "folds-without-purge",
        "test windows of the walk-forward overlap what the policy was trained on",
        PLAN,
        "return timedelta(seconds=WINDOW * step_s + LABEL_HORIZON_S) + EMBARGO",
        "return EMBARGO",
        (FOLDS,),
    ),
    Leak("folds-without-embargo", "no day lies between training and test", PLAN, "EMBARGO = timedelta(hours=24)",
         "EMBARGO = timedelta(0)", (FOLDS,)),
    Leak(
        "encoder-labels-in-the-policys-span",
        "the policy's span begins where the encoder's labels still are",
        PLAN,
        "policy_from = encoder_to + timedelta(seconds=LABEL_HORIZON_S)",
        "policy_from = encoder_to",
        (FOLDS,),
    ),
    Leak(
        "universe-of-the-whole-span",
        "coins are ranked by their volume up to today",
        SOURCES,
        "recent = candles[(candles.as_of > since) & (candles.as_of <= moment)]",
        "recent = candles[candles.as_of > since]",
        ("tests/pipeline/test_evaluate_plan.py::test_nothing_of_later_changes_the_universe",),
    ),
    Leak(
        "survivor-universe",
        "coins that have ended by today are left out of every fold",
        SOURCES,
        "ended = not len(recent) or int(recent.as_of[-1]) <= moment - 86_400",
        "ended = not len(recent) or int(candles.as_of[-1]) <= source.last - 86_400",
        ("tests/pipeline/test_evaluate_plan.py::test_coins_that_have_ended_since_are_chosen_and_those_that_had_ended_are_not",),
    ),
    Leak(
        "validation-overlaps-training",
        "what decides between the stages is part of what they were fitted on",
        "policy/training.py",
        "data.part(0, max(cut - plan.purge_steps, 0)), data.part(cut, len(data))",
        "data, data.part(cut, len(data))",
        ("tests/policy/test_training.py::test_what_is_held_back_is_not_fitted",),
    ),
    Leak(
        "validation-without-purge",
        "what is held back follows what is fitted at once",
        "policy/training.py",
        "data.part(0, max(cut - plan.purge_steps, 0))",
        "data.part(0, cut)",
        ("tests/policy/test_training.py::test_what_is_held_back_is_not_fitted",),
    ),
    Leak(
        "randomised-validation",
        "costs and steering are drawn at random in validation, too",
        "policy/training_plan.py",
        "return replace(self.terms, reach=self.reach, steering=steering, costs=self.terms.costs or self.costs)",
        "return replace(self.terms, reach=self.reach)",
        ("tests/policy/test_leak_training.py",),
    ),
)  # fmt: skip
