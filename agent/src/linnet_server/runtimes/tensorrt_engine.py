"""An engine, made from the ONNX file on the node that runs it. In a child only (`trial`).

- Strongly typed: precision is what the ONNX file says. TensorRT 11 knows nothing else, and 10 is
  told so.
- A batch may be 1 to 16 where the publisher says nothing; any other dimension that is not fixed
  needs a profile in `runtime.json`.
- An engine counts once it has been loaded and has run: an engine of the cache, too, each time. One
  that does not is built again, once.
- What builds have measured is kept for the next one, by TensorRT, GPU and driver.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from linnet_server.errors import LoadFailedError, ModelFailedError
from linnet_server.runtimes import cuda as cudas
from linnet_server.runtimes.engine_cache import Engine, EngineCache, EngineKey
from linnet_server.runtimes.hints import HINTS_FILE, Hints, Profile
from linnet_server.runtimes.interface import ModelFile, generate_examples
from linnet_server.runtimes.tensorrt import TensorRtModel, load_tensorrt, make_logger

DEFAULT_BATCH: Final = (1, 1, 16)


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """An engine that has run, and whether it had to be built for that."""

    engine: Engine
    built: bool


def prepare_engine(model: ModelFile) -> Prepared:
    """Return an engine for ``model`` that is known to run on this GPU.

    Raises:
        WrongVariantError: There is no GPU, no CUDA or no TensorRT here.
        LoadFailedError: TensorRT cannot make an engine of it, or the engine does not run.
        EngineCacheError: The disk does not take it.
    """
    cuda = cudas.load_runtime()
    gpu = cudas.read_gpu(cuda)
    trt = load_tensorrt()
    key = EngineKey(
        digest=model.digest,
        file=model.path.name,
        tensorrt=str(trt.__version__),
        gpu=gpu.name,
        sm=gpu.sm,
        driver=gpu.driver,
        cuda=gpu.runtime,
        hints=model.hints.model_dump_json(),
    )
    cache = EngineCache(model.cache)
    kept = cache.read(key)
    if kept is not None:
        try:
            _prove(trt, cuda, cache, kept, model.hints)
            return Prepared(kept, built=False)
        except LoadFailedError:
            pass  # it is derived: what cannot be read is made again
    built = cache.write(key, memoryview(_build(trt, cache, key, model)))
    _prove(trt, cuda, cache, built, model.hints)
    return Prepared(built, built=True)


def _prove(trt: Any, cuda: Any, cache: EngineCache, engine: Engine, hints: Hints) -> None:  # noqa: ANN401 - no types here
    """Load the engine and run it once."""
    with cache.trying(engine):
        opened = TensorRtModel(trt, cuda, engine.path.read_bytes())
        feeds = generate_examples(opened.signature, hints)
        try:
            opened.run(feeds, list(opened.signature.outputs))
        except ModelFailedError as exc:
            raise LoadFailedError(f"the engine does not run: {exc}") from exc
        finally:
            opened.close()


def _build(trt: Any, cache: EngineCache, key: EngineKey, model: ModelFile) -> Any:  # noqa: ANN401 - no types here
    """Return the engine as TensorRT writes it: a buffer."""
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model.path)):
        said = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise LoadFailedError(f"TensorRT cannot read it: {'; '.join(said[:3])}"[:600])
    config = builder.create_builder_config()
    if model.hints.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, model.hints.workspace_bytes)
    if model.hints.optimization_level is not None:
        config.builder_optimization_level = model.hints.optimization_level
    _add_profile(builder, config, _input_shapes(network), model.hints.profiles)
    timing_name = f"{key.tensorrt}-sm{key.sm}-{key.driver}"
    known = cache.read_timing(timing_name)
    timing = config.create_timing_cache(known) or config.create_timing_cache(b"")
    config.set_timing_cache(timing, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        why = "; ".join(logger.lines) or "TensorRT does not say why"
        raise LoadFailedError(f"TensorRT cannot build an engine: {why}")
    cache.write_timing(timing_name, memoryview(config.get_timing_cache().serialize()))
    return plan


def _input_shapes(network: Any) -> dict[str, tuple[int, ...]]:  # noqa: ANN401 - no types here
    tensors = (network.get_input(index) for index in range(network.num_inputs))
    return {tensor.name: tuple(tensor.shape) for tensor in tensors}


def _add_profile(
    builder: Any,  # noqa: ANN401 - no types here
    config: Any,  # noqa: ANN401 - no types here
    shapes: Mapping[str, tuple[int, ...]],
    wanted: Mapping[str, Profile],
) -> None:
    profile = builder.create_optimization_profile()
    dynamic = False
    for name, shape in shapes.items():
        if all(dim >= 0 for dim in shape):
            continue
        dynamic = True
        ranges = wanted.get(name) or default_profile(name, shape)
        profile.set_shape(name, ranges.min, ranges.opt, ranges.max)
    if dynamic:
        config.add_optimization_profile(profile)


def default_profile(name: str, shape: tuple[int, ...]) -> Profile:
    """Return the profile of an input about which the publisher says nothing.

    Raises:
        LoadFailedError: More than its first dimension is open.
    """
    if any(dim < 0 for dim in shape[1:]):
        raise LoadFailedError(
            f"input '{name}' is {list(shape)}: say which shapes it may have, in {HINTS_FILE} "
            f'beside the model: {{"profiles": {{"{name}": {{"min": …, "opt": …, "max": …}}}}}}'
        )
    low, best, high = ((batch, *shape[1:]) for batch in DEFAULT_BATCH)
    return Profile(min=low, opt=best, max=high)
