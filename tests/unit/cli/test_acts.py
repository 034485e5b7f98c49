"""Acts: appended, never lost, never twice, and by whom the API server says."""

import pytest

from linnet_cli.exits import Exit

ROLLOUT = ("modelrollouts", "factory", "digits-3")


def acts_of(kube):
    return kube.objects[ROLLOUT]["spec"].get("acts", [])


def test_an_act_says_who_what_and_why(stories, linnet):
    kube = stories["baking"]().kube()

    outcome = linnet(kube, "pause", "digits", "--reason", "shift change")

    assert outcome.code == Exit.OK
    assert acts_of(kube) == [
        {"id": "pause-0badcafe", "verb": "Pause", "by": "ana@example.org", "reason": "shift change"}
    ]
    assert outcome.out == "digits-3: Pause by ana@example.org recorded\n"
    assert "linnet status digits -n factory --watch" in outcome.err


def test_acts_before_it_stay_as_they_are(stories, linnet):
    kube = stories["baking"]().kube()
    kube.objects[ROLLOUT]["spec"]["acts"] = [{"id": "a1", "verb": "Pause", "by": "bob"}]

    linnet(kube, "resume", "digits")

    assert [act["id"] for act in acts_of(kube)] == ["a1", "resume-0badcafe"]


def test_a_change_in_between_is_read_again_and_both_acts_stay(stories, linnet):
    kube = stories["baking"]().kube(conflicts=1)

    def someone_else_acts():
        kube.objects[ROLLOUT]["spec"]["acts"] = [{"id": "b1", "verb": "Pause", "by": "bob"}]

    kube.after_reads = [lambda: None, someone_else_acts]

    outcome = linnet(kube, "abort", "digits")

    assert outcome.code == Exit.OK
    assert [act["id"] for act in acts_of(kube)] == ["b1", "abort-0badcafe"]


def test_a_rollout_that_changes_at_every_attempt_is_an_error(stories, linnet):
    kube = stories["baking"]().kube(conflicts=100)

    outcome = linnet(kube, "abort", "digits")

    assert outcome.code == Exit.ERROR
    assert acts_of(kube) == []


def test_a_new_rollout_in_between_is_not_acted_on(stories, linnet):
    fleet = stories["baking"]()
    fleet.objects["modelrollouts", "factory", "digits-4"] = fleet.objects[ROLLOUT] | {
        "metadata": {"name": "digits-4", "namespace": "factory", "resourceVersion": "1"}
    }
    kube = fleet.kube(conflicts=1)

    def superseded():
        kube.objects["modeldeployments", "factory", "digits"]["status"]["rollout"] = "digits-4"

    kube.after_reads = [superseded]

    outcome = linnet(kube, "approve", "digits", "--step", "2")

    assert outcome.code == Exit.ERROR
    assert "digits-4 took the place of digits-3" in outcome.err


@pytest.mark.parametrize("verb", ["approve", "pause", "resume", "abort", "promote"])
def test_nothing_can_be_decided_about_what_has_ended(verb, stories, linnet):
    kube = stories["rolled-back"]().kube()

    outcome = linnet(kube, verb, "digits")

    assert outcome.code == Exit.ERROR
    assert "digits-3 has ended (RolledBack)" in outcome.err
    assert "linnet retry digits -n factory" in outcome.err
    assert acts_of(kube) == []


def test_only_what_was_taken_back_can_be_tried_again(stories, linnet):
    running = linnet(stories["baking"]().kube(), "retry", "digits")
    back = stories["rolled-back"]().kube()

    assert (running.code, "still running" in running.err) == (Exit.ERROR, True)
    assert linnet(back, "retry", "digits", "--reason", "new lamp").code == Exit.OK
    assert acts_of(back)[0]["verb"] == "Retry"


def test_an_approval_that_nobody_asked_for_names_its_step(stories, linnet):
    kube = stories["baking"]().kube()

    unasked = linnet(kube, "approve", "digits")
    named = linnet(kube, "approve", "digits", "--step", "3")

    assert unasked.code == Exit.ERROR
    assert "--step" in unasked.err
    assert named.code == Exit.OK
    assert acts_of(kube)[0]["step"] == 3


def test_a_decision_is_no_approval(stories, linnet, waits):
    fleet = stories["baking"]()
    fleet.objects[ROLLOUT]["status"]["waitingFor"] = waits("Decision", "a person").to_dict()
    kube = fleet.kube()

    approved, promoted = linnet(kube, "approve", "digits"), linnet(kube, "promote", "digits")

    assert approved.code == Exit.ERROR
    assert "linnet promote digits -n factory" in approved.err
    assert (promoted.code, acts_of(kube)[0]["verb"]) == (Exit.OK, "Promote")


def test_what_was_condemned_can_be_tried_again_whatever_came_after(stories, linnet):
    fleet = stories["completed-without-two"]()
    conditions = fleet.objects["modeldeployments", "factory", "digits"]["status"]["conditions"]
    refused = linnet(fleet.kube(), "retry", "digits")
    conditions[0] |= {"status": "False", "reason": "Condemned"}
    conditions.append(conditions[0] | {"type": "Stalled", "status": "True"})

    assert refused.code == Exit.ERROR
    assert linnet(fleet.kube(), "retry", "digits").code == Exit.OK


def test_a_dry_run_writes_nothing(stories, linnet):
    kube = stories["baking"]().kube()

    outcome = linnet(kube, "abort", "digits", "--dry-run")

    assert (outcome.code, acts_of(kube)) == (Exit.OK, [])
    assert "dry run" in outcome.out


def test_resuming_under_the_brake_of_git_says_so(stories, linnet):
    fleet = stories["baking"]()
    fleet.objects["modeldeployments", "factory", "digits"]["spec"]["paused"] = True

    assert "Git's brake" in linnet(fleet.kube(), "resume", "digits").err


def test_as_a_plugin_the_hints_say_kubectl_linnet(stories, linnet):
    outcome = linnet(stories["baking"]().kube(), "pause", "digits", prog="kubectl linnet")

    assert "kubectl linnet status digits" in outcome.err
