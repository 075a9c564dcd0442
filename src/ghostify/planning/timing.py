"""Times of networks of some options, deployed, in one engine on this machine."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.changes import AnyPlan
from ghostify.changes.layer_plan import plan_from
from ghostify.inference.compare import compare
from ghostify.inference.deploy import deploy
from ghostify.inference.engine_file import engine_file
from ghostify.inference.engines import TORCH_ENGINES, Precision, engine_version
from ghostify.inference.explain import ProfileConditions, layer_ms
from ghostify.inference.torch_layers import torch_layer_ms
from ghostify.measure.environment import describe_environment
from ghostify.measure.latency import Comparison, comparison_from
from ghostify.modes import evaluating
from ghostify.planning.candidates import Candidates, Offer
from ghostify.planning.cost import Sample, draw_plans, original_plans
from ghostify.planning.measurements import Measurements
from ghostify.progress import Progress
from ghostify.transform.untrained import untrained

SAMPLES = 10  # networks of random options that are profiled, the original apart
# Properties of a machine that its times depend on.
MACHINE = ("device", "processor", "cores", "os", "torch")


@dataclass(frozen=True)
class EngineTiming:
    """The engine in which times are measured.

    Args:
        engine: "openvino", "onnxruntime", "compile" or "eager".
        threads: CPU threads.
        precision: That of the planned networks; the original is timed in float32.
        device: "cpu", or "cuda" for the last two.
    """

    engine: str
    threads: int = 1
    precision: Precision = "fp32"
    device: str = "cpu"

    @property
    def in_pytorch(self) -> bool:
        """True where networks are timed as modules, not as files."""
        return self.engine in TORCH_ENGINES

    def described(self) -> dict[str, Any]:
        """Machine, engine and versions."""
        return describe_environment(self.device) | {
            "engine": self.engine,
            "engine_version": engine_version(self.engine),
            "threads": self.threads,
            "precision": self.precision,
        }


@dataclass(frozen=True)
class Timing:
    """Times of networks of some options; what is in the measurements' file is not measured again."""

    model: nn.Module
    candidates: Candidates
    example: Tensor
    engine: EngineTiming
    known: Measurements
    progress: Progress | None
    # How often each network was asked for: a second answer is a second measurement, as the planner needs it.
    asked: Counter[str] = field(default_factory=Counter)
    # The network that was timed last, as it is timed, by the plans that it has.
    planned: dict[str, Path | nn.Module] = field(default_factory=dict)

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """All that times depend on, beside the network."""
        environment = self.engine.described()
        found = {name: environment[name] for name in (*MACHINE, "engine", "engine_version", "threads", "precision")}
        return found | {"layers": len(self.candidates), "example": list(self.example.shape)}

    def samples(self, offer: Offer, seed: int) -> list[Sample]:
        """Profiles of the original and of networks of random options."""
        conditions = self.conditions | {"offered": offer.kinds, "round_to": offer.sizes.round_to, "seed": seed}
        rows = [row for row in self.known.of("profile") if row.get("conditions") == conditions]
        samples = [Sample({n: plan_from(plan) for n, plan in row["plans"].items()}, row["ms"]) for row in rows]
        for index in range(len(samples), SAMPLES + 1):
            self.say(f"profile in {self.engine.engine}", f"network {index + 1}", index, SAMPLES + 1)
            plans = draw_plans(self.candidates, seed + index) if index else original_plans(self.candidates)
            samples.append(Sample(plans, self.profile(plans)))
            written = {name: plan.row() for name, plan in plans.items()}
            self.known.add("profile", conditions=conditions, plans=written, ms=samples[-1].ms)
        self.say(f"profile in {self.engine.engine}", "done", SAMPLES + 1, SAMPLES + 1)
        return samples

    def profile(self, plans: Mapping[str, AnyPlan]) -> dict[str, float]:
        """Milliseconds of each layer of a network with these plans."""
        with evaluating(self.model), torch.no_grad():
            if self.engine.in_pytorch:
                dtype = torch.bfloat16 if self.engine.precision == "bf16" else self.example.dtype
                return torch_layer_ms(
                    self.shaped(plans).to(dtype),
                    self.example.to(dtype),
                    homes=self.candidates,
                    compiled=self.engine.engine == "compile",
                    threads=self.engine.threads,
                )
            conditions = ProfileConditions(self.engine.engine, self.engine.threads, self.engine.precision)
            return layer_ms(self.shaped(plans), self.example, conditions, homes=self.candidates)

    def of(self, plans: Mapping[str, AnyPlan]) -> Comparison:
        """The latency of a network with these plans, in the precision that is planned for, over the original's."""
        self.say("measure the whole", "", 0, 1)
        found = self.compared(plans, "fp32")
        self.say("measure the whole", f"{1 / found.ratio:.2f} times as fast", 1, 1)
        return found

    def in_same_precision(self, plans: Mapping[str, AnyPlan]) -> Comparison | None:
        """The same over the original in the precision that is planned for; None where that is float32."""
        return None if self.engine.precision == "fp32" else self.compared(plans, self.engine.precision)

    def compared(self, plans: Mapping[str, AnyPlan], precision: Precision) -> Comparison:
        """The latency of a network with these plans over that of the original in some precision."""
        whole = {"plans": {name: plan.row() for name, plan in plans.items()}, "original_in": precision}
        whole |= {"conditions": self.conditions}
        key = json.dumps(whole, sort_keys=True)
        before = [row for row in self.known.of("whole") if json.dumps(row.get("whole"), sort_keys=True) == key]
        number = self.asked[key]
        self.asked[key] += 1
        if number < len(before):
            return comparison_from(before[number]["found"])
        with evaluating(self.model), torch.no_grad():
            found = compare(
                self.original,
                self.timed(plans, json.dumps(whole["plans"])),
                self.example,
                engine=self.engine.engine,
                threads=self.engine.threads,
                precision=(precision, self.engine.precision),
            )
        self.known.add("whole", whole=whole, found=asdict(found))
        return found

    @cached_property
    def folder(self) -> TemporaryDirectory[str]:
        """A folder that goes with this object."""
        return TemporaryDirectory()

    @cached_property
    def original(self) -> Path | nn.Module:
        """The original as it is timed: made once, as each comparison needs it."""
        return self.as_timed(self.deployed(self.model), "original")

    def timed(self, plans: Mapping[str, AnyPlan], key: str) -> Path | nn.Module:
        """A network with these plans as it is timed, kept until another is asked for: a good one is timed again."""
        if key not in self.planned:
            self.planned.clear()
            self.planned[key] = self.as_timed(self.shaped(plans), "planned")
        return self.planned[key]

    def as_timed(self, deployed: nn.Module, name: str) -> Path | nn.Module:
        """The network itself for PyTorch, else its file, in float32."""
        if self.engine.in_pytorch:
            return deployed
        folder = Path(self.folder.name, name)
        folder.mkdir(exist_ok=True)
        return engine_file(deployed, folder, self.example, engine=self.engine.engine, precision="fp32")

    def shaped(self, plans: Mapping[str, AnyPlan]) -> nn.Module:
        """A network in the shape of these plans, deployed."""
        return self.deployed(untrained(self.model, plans, self.example[:1]))

    def deployed(self, model: nn.Module) -> nn.Module:
        """A network as it runs at its users' places; a GPU's convolutions prefer channels last."""
        found = deploy(model, self.example, engine=self.engine.engine)
        return found.to(memory_format=torch.channels_last) if self.example.is_cuda else found

    def say(self, task: str, detail: str, done: int, total: int) -> None:
        """Report progress, if that is asked for."""
        if self.progress:
            self.progress(task, detail, done, total)
