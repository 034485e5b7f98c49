"""``linnet lint``: is the policy right, and what would it see of the real fleet?

- With --prometheus the fleet's past is read now; without, it is that of the newest rollout.
- Exit 1 where the policy cannot be used; a warning alone is exit 0.
"""

import argparse
import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from linnet_api.durations import parse_duration
from linnet_api.rollout_policy import RolloutPolicySpec
from linnet_cli.contract import DEPLOYMENTS, NODE_MODELS, collection_path
from linnet_cli.errors import CliError, ForbiddenError, NotFoundError, UsageError
from linnet_cli.exits import Exit
from linnet_cli.kube import Json, Kube
from linnet_cli.linting import Traffic, lint_fleet
from linnet_cli.options import add_cluster_options, split_name
from linnet_cli.policy_files import read_policies
from linnet_cli.reading import read_deployment, read_newest_rollout
from linnet_cli.world import World
from linnet_operator.evidence import EvidenceRecordError, read_config_map, recompute
from linnet_operator.judge.thresholds import ThresholdSample
from linnet_operator.learning import learn_all
from linnet_operator.presets import Subject
from linnet_operator.templates import fill_in, unaskable, words_of
from linnet_operator.terms import step_template

_LAG = timedelta(minutes=2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``lint`` takes."""
    parser.add_argument("file", metavar="FILE", help="YAML with a RolloutPolicy")
    parser.add_argument(
        "--deployment", metavar="NAME", help="a fleet (default: all that name the policy)"
    )
    parser.add_argument("--prometheus", metavar="URL", help="where to read the fleet's past now")
    parser.add_argument("--prometheus-auth", metavar="DIR", help="its credentials, as in a Secret")
    parser.add_argument("--offline", action="store_true", help="the file alone, without a cluster")
    add_cluster_options(parser)


def run(args: argparse.Namespace, world: World) -> int:
    """Print what is wrong, and what would be seen; 1 where a policy cannot be used."""
    _check(args)
    code = Exit.OK
    for name, spec, problems in read_policies(Path(args.file)):
        if spec is None or problems:
            world.show("\n".join([f"{name}: cannot be used", *(f"  {each}" for each in problems)]))
            code = Exit.ERROR
            continue
        world.show(f"{name}: can be used")
        if not args.offline:
            _lint_fleets(name, spec, args, world)
    return code


def _check(args: argparse.Namespace) -> None:
    """Check what goes together.

    Raises:
        UsageError: It does not.
    """
    if args.offline and (args.prometheus is not None or args.deployment is not None):
        raise UsageError("--offline reads the file alone: without --prometheus and --deployment")
    if args.prometheus is None:
        if args.prometheus_auth is not None:
            raise UsageError("--prometheus-auth goes with --prometheus")
    elif not _is_http_address(args.prometheus):
        raise UsageError("--prometheus: an address is needed, as http://prometheus.monitoring:9090")


def _is_http_address(text: str) -> bool:
    try:
        address = urlsplit(text)
        port = address.port
    except ValueError:
        return False
    return address.scheme in ("http", "https") and bool(address.hostname) and port != 0


def _lint_fleets(
    name: str, spec: RolloutPolicySpec, args: argparse.Namespace, world: World
) -> None:
    kube = world.connect(args)
    namespace = args.namespace or kube.namespace
    fleets = _fleets(kube, namespace, policy=name, deployment=args.deployment)
    if not fleets:
        world.say(f"no ModelDeployment in {namespace} names {name}: --deployment NAME takes one")
    for deployment in fleets:
        traffic = _traffic(kube, deployment, spec, args, now=kube.server_time or world.now())
        lines, warnings = lint_fleet(spec, traffic)
        world.show("\n".join(["", *lines, *(f"  warning: {each}" for each in warnings)]))


def _fleets(kube: Kube, namespace: str, *, policy: str, deployment: str | None) -> list[Json]:
    if deployment is not None:
        return [read_deployment(kube, namespace=namespace, name=split_name(deployment))]
    items = kube.get(collection_path(DEPLOYMENTS, namespace=namespace)).get("items") or []
    return [each for each in items if (each["spec"].get("policyRef") or {}).get("name") == policy]


def _traffic(
    kube: Kube,
    deployment: Json,
    spec: RolloutPolicySpec,
    args: argparse.Namespace,
    *,
    now: datetime,
) -> Traffic:
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    stable = status.get("stable") or {}
    known = Traffic(
        deployment=f"{metadata['namespace']}/{metadata['name']}",
        eligible=int((status.get("nodes") or {}).get("eligible") or 0),
        stable=str(stable.get("revision", "")),
        nodes=_nodes_on(kube, metadata, str(stable.get("revision", ""))),
    )
    if not known.stable:
        return replace(known, problem="no revision is served yet, so there is no past")
    if args.prometheus is None:
        return _as_last_learned(kube, deployment, known, spec)
    subject = Subject(
        namespace=metadata["namespace"],
        deployment=metadata["name"],
        preset=spec.judge.preset,
        model=str((deployment["spec"].get("serving") or {}).get("name") or metadata["name"]),
        versions={str(stable.get("number")): known.stable},
    )
    known = replace(known, asked=True)
    return asyncio.run(_as_measured(args, subject, known, spec, now=now))


def _nodes_on(kube: Kube, metadata: Json, revision: str) -> tuple[str, ...]:
    path = collection_path(NODE_MODELS, namespace=metadata["namespace"])
    return tuple(
        sorted(
            str(each["spec"]["node"]["name"])
            for each in kube.get(path).get("items") or []
            if each["spec"].get("deployment") == metadata["name"]
            and ((each.get("status") or {}).get("current") or {}).get("revision") == revision
        )
    )


def _as_last_learned(
    kube: Kube, deployment: Json, known: Traffic, spec: RolloutPolicySpec
) -> Traffic:
    """Return what the newest rollout has learned of the fleet, from its record."""
    ask = "--prometheus URL reads it now"
    rollout = read_newest_rollout(kube, deployment)
    reference = ((rollout or {}).get("status") or {}).get("evidence")
    if rollout is None or not reference:
        return replace(known, problem=f"no rollout has read the fleet's past yet; {ask}")
    path = f"/api/v1/namespaces/{deployment['metadata']['namespace']}/configmaps"
    try:
        record = recompute(read_config_map(kube.get(f"{path}/{reference['name']}")))
    except (EvidenceRecordError, ForbiddenError, NotFoundError) as error:
        return replace(
            known, problem=f"the record {reference['name']} is of no use: {error}; {ask}"
        )
    learned = {each.name: each.learned for each in record.inputs.metrics if each.learned}
    missing = [each.name for each in spec.judge.compare if each.name not in learned]
    problem = f"{', '.join(missing)} was not compared then; {ask}" if missing else ""
    since = f"its past as {rollout['metadata']['name']} learned it, {record.about.get('until')}"
    return replace(known, learned=learned, since=since, problem="" if learned else problem)


async def _as_measured(
    args: argparse.Namespace,
    subject: Subject,
    known: Traffic,
    spec: RolloutPolicySpec,
    *,
    now: datetime,
) -> Traffic:
    """Return what Prometheus knows of the fleet now, read as a rollout would."""
    try:
        from linnet_operator.credentials import Credentials  # noqa: PLC0415 - needs aiohttp
        from linnet_operator.history import incomplete, read_histories, unreadable  # noqa: PLC0415 - the same
        from linnet_operator.prometheus import PrometheusSource, Sampled  # noqa: PLC0415 - the same
    except ImportError as error:
        raise CliError(
            f"--prometheus needs {error.name}: install linnet with its extra 'operator'"
        ) from error
    judge = spec.judge
    auth = Credentials(Path(args.prometheus_auth)) if args.prometheus_auth else None
    async with PrometheusSource(args.prometheus, credentials=auth) as source:
        interval = parse_duration(judge.interval)
        scrape = await source.newest_common_time(
            subject, now=now, lag_limit=max(_LAG, 2 * interval)
        )
        if scrape.at is None:
            return replace(known, problem=scrape.no_data)
        samples: dict[str, ThresholdSample] = {}
        for threshold in judge.thresholds:
            words = words_of(
                namespace=subject.namespace,
                deployment=subject.deployment,
                revision=known.stable,
                baseline=known.stable,
                window=parse_duration(spec.steps[0].bake),
                nodes=known.nodes,
            )
            problem = unaskable(threshold.query, words)
            asked = (
                Sampled(no_data=problem)
                if problem
                else await source.samples(fill_in(threshold.query, words), [scrape.at])
            )
            samples[threshold.name] = (
                asked.samples[0]
                if asked.samples
                else ThresholdSample(
                    at_s=scrape.at.timestamp(), value=None, series=0, problem=asked.no_data
                )
            )
        histories = await read_histories(source, subject, judge, end=scrape.at)
    problem = unreadable(histories) or incomplete(histories)
    if problem:
        return replace(known, samples=samples, problem=problem)
    lesson = learn_all(
        histories,
        baseline=known.stable,
        nodes=known.nodes,
        interval_s=interval.total_seconds(),
        window_s=parse_duration(judge.history.window).total_seconds(),
        template=step_template(spec),
        about={},
    )
    learned = {
        each.name: each.learned
        for each in recompute(lesson.record.canonical).inputs.metrics
        if each.learned
    }
    since = (
        f"its past of {judge.history.windows} x {judge.history.window} up to {scrape.at:%H:%M} UTC"
    )
    return replace(known, learned=learned, samples=samples, since=since)
