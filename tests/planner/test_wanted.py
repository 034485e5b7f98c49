"""Which revision the spec wants, and which one is stable."""

import pytest

from linnet_api.model_deployment import ModelDeploymentSpec, ModelDeploymentStatus, RevisionStatus
from linnet_api.model_rollout import RevisionRef
from linnet_operator.planner.model import (
    DeploymentView,
    Resolved,
    ResolveFailure,
    RevisionView,
)
from linnet_operator.planner.wanted import ref, stable_of, title, want

ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
SOURCE = "oci://r.test/m/digits:1.0"


def deployment(source=SOURCE, *, status=None, **spec):
    return DeploymentView(
        namespace="ns",
        name="digits",
        uid="u",
        generation=1,
        spec=ModelDeploymentSpec.model_validate(
            {"source": source, "nodes": {"matchLabels": {"a": "b"}}, **spec}
        ),
        status=status or ModelDeploymentStatus(),
    )


def cut(source=SOURCE, digest=ONE, *, known=(), **spec):
    return want(deployment(source, **spec), known, Resolved(source, digest)).revision


def test_a_tag_is_asked_for_once():
    assert want(deployment(), [], None).ask == SOURCE
    first = cut()

    again = want(deployment(), [first], Resolved(SOURCE, TWO))

    assert (again.ask, again.revision, again.record) == (None, first, None)


def test_an_answer_for_another_source_is_no_answer():
    assert want(deployment(), [], Resolved("oci://r.test/m/digits:0.9", ONE)).ask == SOURCE


def test_a_failure_is_told_and_asked_again():
    failure = ResolveFailure(SOURCE, "404", final=True)

    wanted = want(deployment(), [], failure)

    assert (wanted.failure, wanted.ask, wanted.revision) == (failure, SOURCE, None)


@pytest.mark.parametrize(
    ("source", "digest"), [(SOURCE, ONE), ("oci://r.test/m/digits@" + ONE, None)]
)
def test_a_digest_is_taken_at_its_word(source, digest):
    wanted = want(deployment(source, digest=digest), [], None)

    assert wanted.ask is None
    assert wanted.revision.artifact == ONE


def test_numbers_rise_and_contents_name():
    first = cut()
    second = cut("oci://r.test/m/digits:1.1", TWO, known=[first])
    third = cut("oci://r.test/m/digits:1.1", TWO, known=[first, second], serving={"threads": 4})

    assert [first.number, second.number, third.number] == [1, 2, 3]
    assert len({first.revision, second.revision, third.revision}) == 3
    assert third.artifact == TWO
    assert third.serving.name == "digits"


def test_other_settings_of_a_known_source_keep_its_artifact():
    first = cut()

    wanted = want(deployment(serving={"threads": 4}), [first], Resolved(SOURCE, TWO))

    assert wanted.revision.artifact == ONE


def test_another_tag_of_the_same_artifact_is_the_same_revision():
    first = cut()

    wanted = want(
        deployment("oci://r.test/m/digits:stable"),
        [first],
        Resolved("oci://r.test/m/digits:stable", ONE),
    )

    assert (wanted.revision.revision, wanted.revision.number) == (first.revision, 1)
    assert wanted.record.revision.sources == (SOURCE, "oci://r.test/m/digits:stable")


def test_the_serving_name_may_be_given():
    assert cut(serving={"name": "numbers"}).serving.name == "numbers"


def test_stable_is_what_the_status_says_where_no_rollout_is_known():
    stable = RevisionStatus(revision="aaaaaaaaaa", number=3, digest=ONE)
    status = ModelDeploymentStatus(stable=stable)

    assert stable_of(deployment(status=status), None) == RevisionRef(
        revision="aaaaaaaaaa", number=3, digest=ONE
    )
    assert stable_of(deployment(), None) is None


def test_people_know_a_revision_by_name_and_tag():
    first = cut()

    assert title(ref(first), [first]) == f"{first.revision} (digits 1.0)"
    assert title(ref(first), []) == first.revision


def test_a_source_by_digest_has_no_tag_to_show():
    revision = RevisionView(
        "aaaaaaaaaa", 1, ONE, (f"oci://r.test/m/digits@{ONE}",), (), cut().serving
    )

    assert title(ref(revision), [revision]) == "aaaaaaaaaa (digits)"
