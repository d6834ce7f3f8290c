"""Crashes by the thousand: the sender against the emulator's engine in one process, every schedule from a seed.

``python -m tests.crash --schedules 20000 --jobs 2`` is the long form; pipeline.crash kills real processes.
"""
