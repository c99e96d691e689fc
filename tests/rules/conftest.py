"""Assertions in the tables' helpers say what they compared."""

import pytest

pytest.register_assert_rewrite("tests.rules.tables")
