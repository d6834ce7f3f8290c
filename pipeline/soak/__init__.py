"""Thirty days of the whole schedule in minutes, on a virtual clock, with everything going wrong that can."""
