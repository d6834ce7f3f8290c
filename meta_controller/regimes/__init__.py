"""Regime experts by name. A new one is one file here and one line in EXPERTS."""

from __future__ import annotations

from collections.abc import Mapping

from meta_controller.regimes import change_point, har_logit, hidden_markov, jump_model, quadrant, range_logit
from meta_controller.regimes.expert import Expert

EXPERTS: Mapping[str, Expert] = {
    "quadrant": quadrant.EXPERT,
    "jump_model": jump_model.EXPERT,
    "hidden_markov": hidden_markov.EXPERT,
    "change_point": change_point.EXPERT,
    "har_logit": har_logit.EXPERT,
    "range_logit": range_logit.EXPERT,
}
