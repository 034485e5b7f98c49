"""Harm in one domain alone, and harm that rests on one node: each by its definition, row by row."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet_operator.judge.kernel import log_mean
from linnet_operator.judge.model import build_model

NODES = 7
FAILURES = st.lists(st.integers(0, 60), min_size=NODES, max_size=NODES)
DOMAINS = st.lists(st.sampled_from(["", "nano", "orin", "x86"]), min_size=NODES, max_size=NODES)


def model_of(fleet, failures, domains):
    candidates = [
        fleet.count(i, float(x), 400.0 + 50 * i, domain=domain)
        for i, (x, domain) in enumerate(zip(failures, domains, strict=True))
    ]
    stable = [fleet.count(i, 5.0, 400.0) for i in range(NODES, NODES + 3)]
    return build_model(fleet.learned(NODES + 3), candidates, stable, detect=fleet.detect)


def log_e_of(model, harmed, *, rows=None):
    """Return the log e-value of harm on the nodes ``harmed`` and on no others, over ``rows``."""
    null, harms = model.no_rise(), model.harms()
    judged = replace(model, rows=rows or model.rows)

    def on_some(harm):
        return judged.log_marginal(lambda row: harm(row) if row.node in harmed else null(row))

    without = judged.log_marginal(null)
    *others, named = map(on_some, harms)
    steady = on_some(model.steady_no_rise())
    return log_mean([*(other - without for other in others), named - max(without, steady)])


def half_everywhere_half_in_domains(model, *, rows=None):
    """Return the log e-value as it is defined, and that of each domain by name."""
    sizes = Counter(row.domain for row in model.rows if row.domain)
    named = sorted(name for name, size in sizes.items() if 2 <= size < len(model.rows))
    by_domain = {
        name: log_e_of(model, {row.node for row in model.rows if row.domain == name}, rows=rows)
        for name in named
    }
    everywhere = log_e_of(model, {row.node for row in model.rows}, rows=rows)
    if not by_domain:
        return everywhere, by_domain
    return log_mean([everywhere, log_mean(list(by_domain.values()))]), by_domain


@given(FAILURES, DOMAINS)
def test_half_of_the_weight_is_on_harm_everywhere_and_half_on_the_domains(fleet, failures, domains):
    model = model_of(fleet, failures, domains)

    log_e, by_domain = model.weigh().log_e_and_by_domain()

    expected, expected_by_domain = half_everywhere_half_in_domains(model)
    assert log_e == pytest.approx(expected, abs=2e-6)
    assert dict(by_domain) == pytest.approx(expected_by_domain, abs=2e-6)


@pytest.mark.slow
@settings(max_examples=12)
@given(FAILURES, DOMAINS)
def test_leaving_a_node_out_is_what_is_left_without_it(fleet, failures, domains):
    model = model_of(fleet, failures, domains)

    left = model.weigh().log_e_without_each()

    # Who may be harmed together, and what harm may look like, stays what it was for all of them.
    for left_out in model.rows:
        others = tuple(row for row in model.rows if row is not left_out)
        expected, _ = half_everywhere_half_in_domains(model, rows=others)
        assert left[left_out.node] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("domains", "named"),
    [
        pytest.param(["nano"] * 2 + ["orin"] * 5, ["nano", "orin"], id="two kinds"),
        pytest.param(["nano"] + ["orin"] * 6, ["orin"], id="one node is no domain"),
        pytest.param(["nano"] * 7, [], id="all of one kind are everybody"),
        pytest.param([""] * 5 + ["nano"] * 2, ["nano"], id="an unknown kind is none"),
        pytest.param([""] * 7, [], id="nothing is known"),
    ],
)
def test_a_domain_has_two_candidates_and_others_beside_it(fleet, domains, named):
    model = model_of(fleet, [5] * NODES, domains)

    assert [name for name, _ in model.weigh().log_e_and_by_domain()[1]] == named


def test_a_domain_is_looked_at_with_its_own_counts(fleet):
    candidates = [fleet.count(i, 3.0 * i, 300.0, domain="ab"[i % 2]) for i in range(6)]
    stable = [fleet.count(i, 3.0, 300.0) for i in range(6, 10)]

    a, b = fleet.look(candidates, stable).domains

    assert (a.domain, a.failures, a.requests) == ("a", 18.0, 900.0)
    assert (b.domain, b.failures, b.requests) == ("b", 27.0, 900.0)
    assert a.expected == pytest.approx(b.expected)
