"""Metrics as they are documented, alerted on and drawn. The end-to-end tests compare them with a scrape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bridge.metrics import Metrics
from tests.docs import pages
from tests.harness.promtool import RULE_TESTS, RULES, dashboard_expressions, promtool

SUFFIXES = {"counter": "_total", "info": "_info"}


def test_the_table_has_every_metric_with_its_labels() -> None:
    rows = pages.table(pages.OPERATIONS, "Metrics")
    documented = {pages.codes(row["metric"])[0]: set(pages.codes(row["labels"])) for row in rows}
    collectors: list[Any] = list(Metrics().registry._collector_to_names)

    assert documented == {one._name + SUFFIXES.get(one._type, ""): labels_of(one) for one in collectors}


def labels_of(collector: Any) -> set[str]:  # noqa: ANN401 - what all kinds of metrics have in common is private
    return {"version"} if collector._type == "info" else set(collector._labelnames)


def test_every_expression_of_the_dashboard_parses(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(dashboard_expressions())]
    file = tmp_path / "dashboard.rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


def test_the_recipe_for_prometheus_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "prometheus.yml"
    file.write_text(pages.block(pages.OPERATIONS, "prometheus.yml"))

    promtool("check", "config", "--syntax-only", str(file))


def test_the_alerts_fire_when_they_should() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(RULE_TESTS))
