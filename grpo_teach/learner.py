"""What learns: models, the optimizer of their weights, and a step that refuses what is not finite."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from grpo_teach.errors import InputError, TrainingDiverged
from grpo_teach.policy import Models


def adamw(parameters, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW of torch, two float32 states a parameter, without weight decay."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)


@dataclass
class Learner:
    """Models that learn by an algorithm; ``step`` counts the batches they have learnt from."""

    models: Models
    algorithm: object
    config: object
    make_optimizer: Callable = adamw
    step: int = 0

    def __post_init__(self):
        rates = self.config.learning_rate, self.config.critic_learning_rate or self.config.learning_rate
        learns = [[p for p in module.parameters() if p.requires_grad] for module in self.models.trainable().values()]
        groups = [{"params": part, "lr": rate} for part, rate in zip(learns, rates, strict=False)]  # policy, critic
        self.optimizer = self.make_optimizer(groups, self.config.learning_rate)
        # float16 reaches no lower than 6e-8: gradients on their way back are scaled up, and down before the step.
        policy = self.models.policy
        self.scaler = torch.amp.GradScaler(policy.device.type, enabled=policy.dtype == torch.float16)

    def learn(self, rollouts, rewards: Tensor) -> dict:
        """Take the algorithm's optimizer steps on one batch.

        Args:
            rollouts: B rows in prompt order.
            rewards: [P, G].
        Returns:
            The last step's ``loss``, ``grad_norm`` (the policy's) and the algorithm's own metrics.
        Raises:
            TrainingDiverged: if a loss, a gradient or the weights are not finite.
        """
        row = {"loss": 0.0, "grad_norm": 0.0}
        self.models.trainable().train()
        for loss, metrics in self.algorithm.update(self.models, rollouts, rewards, self.config):
            self._must_be_finite("loss", float(loss.detach()))
            self.optimizer.zero_grad()
            if loss.requires_grad:  # a batch of equal rewards has nothing to teach: no row was scored
                row |= {"loss": float(loss.detach()), "grad_norm": self._descend(loss)}
            row |= metrics
        self.step += 1
        return row

    def state(self) -> dict:
        """Everything a later process needs to go on as if nothing had happened."""
        learnt, optimizer, scaler = self.models.learnt(), self.optimizer.state_dict(), self.scaler.state_dict()
        return {"step": self.step, "models": learnt, "optimizer": optimizer, "scaler": scaler}

    def restore(self, state: dict) -> None:
        """Take up a state that :meth:`state` gave.

        Raises:
            InputError: if it belongs to other models, or is not whole.
        """
        if missing := self.state().keys() - state.keys():
            raise InputError(f"the checkpoint lacks {', '.join(sorted(missing))}")
        self.models.load(state["models"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]

    def _descend(self, loss: Tensor) -> float:
        self.scaler.scale(loss).backward()
        groups = [group["params"] for group in self.optimizer.param_groups]
        for weight in groups[0] if self.step < self.config.critic_warmup else []:
            weight.grad = None  # the critic learns alone
        self.scaler.unscale_(self.optimizer)
        # Each by itself, so that a critic far off does not shorten the policy's step. (A shared trunk holds both.)
        norms = [float(torch.nn.utils.clip_grad_norm_(group, self.config.max_grad_norm)) for group in groups]
        if not self.scaler.is_enabled() or self.scaler.get_scale() < 1:
            self._must_be_finite("gradient", sum(norms))
        self.scaler.step(self.optimizer)  # skips an overflown gradient; the scale is then halved
        self.scaler.update()
        self._must_be_finite("weights' sum", float(sum(weight.detach().sum() for group in groups for weight in group)))
        return norms[0] if math.isfinite(norms[0]) else 0.0

    def _must_be_finite(self, quantity: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(f"step {self.step}: the {quantity} is {value}")
