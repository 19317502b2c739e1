"""Checks of the suites against their table in the README."""

from __future__ import annotations

import re
from pathlib import Path

import validations
from validations.limits import Limits
from validations.suites import checks

README = Path(validations.__file__).with_name("README.md")


def test_the_readme_lists_every_check_with_its_default() -> None:
    rows = re.findall(r"^\| (\w+) \| (.+?) \| (refuse|warn) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(check.name, check.limit, check.rule) for check in checks(Limits(), kl_symmetric=True)]
