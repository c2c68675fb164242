"""Fixtures of tests that run command lines."""

from tests.support.command_fixtures import csv as csv
from tests.support.command_fixtures import own_signals as own_signals
from tests.support.command_fixtures import places as places
