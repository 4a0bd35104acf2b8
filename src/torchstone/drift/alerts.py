"""Alerts: what somebody must hear of, kept, and told to whoever asked. A deaf listener harms nobody.

alerts = Alerts([lambda kind, message, metrics: send(message)])
Trainer(model, config, hooks=[TrainingAlerts(alerts)]).train(data)
alerts.get_alerts()                            # [{"type", "message", "metrics", "timestamp"}]
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from torchstone._errors import UsageError, in_one_line

log = logging.getLogger(__name__)

AlertCallback = Callable[[str, str, Mapping[str, Any]], object]
"""Told the type, the message and the metrics of an alert."""
VAL_LOSS_SPIKE, ACCURACY_DROP = "val_loss_spike", "accuracy_drop"
GRADIENT_EXPLOSION, DRIFT_CRITICAL = "gradient_explosion", "drift_critical"
MOST_KEPT = 1000


class Alerts:
    """The newest `MOST_KEPT` alerts. A callback that fails is logged, and the others are still called."""

    def __init__(self, callbacks: Sequence[AlertCallback] = ()) -> None:
        self.callbacks = list(callbacks)
        self._kept: list[dict[str, Any]] = []

    def trigger_alert(self, alert_type: str, message: str, metrics: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        alert = {"type": alert_type, "message": message, "metrics": dict(metrics), "timestamp": now}
        self._kept = [*self._kept, alert][-MOST_KEPT:]
        for each in self.callbacks:
            try:
                each(alert_type, message, dict(metrics))
            except Exception as error:
                log.warning("an alert callback failed on %s: %s", alert_type, in_one_line(error))

    def has_alerts(self) -> bool:
        return bool(self._kept)

    def get_alerts(self, clear: bool = True) -> list[dict[str, Any]]:
        """The oldest first; they are forgotten unless `clear` is False."""
        kept = list(self._kept)
        if clear:
            self._kept = []
        return kept


@dataclass(frozen=True, kw_only=True)
class AlertConfig:
    """Limits of alerts on a training."""

    val_loss_spike_threshold: float = 0.2
    """Relative rise of the validation loss since the validation before."""
    accuracy_drop_threshold: float = 0.05
    """Absolute fall of the validation accuracy since the validation before."""
    gradient_explosion_threshold: float = 10.0
    """Norm of the gradients before clipping."""

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise UsageError(
                "a limit of alerts is below zero", why=str(self), next="give limits of 0 or more"
            )


class TrainingAlerts:
    """A hook of training (`train/hooks.py`) that raises alerts on spikes, drops and exploding gradients.

    Gradients alert once when they pass the limit, and again after they were below it.
    """

    def __init__(self, alerts: Alerts, config: AlertConfig | None = None) -> None:
        self.alerts, self.config = alerts, config or AlertConfig()
        self._before: dict[str, float] = {}
        self._exploding = False

    def on_step(self, info: Any) -> None:
        self.look_at_gradients(info.step, info.grad_norm)

    def on_eval(self, info: Any) -> None:
        self.look_at_validation(info.step, info.metrics)

    def look_at_gradients(self, step: int, norm: float) -> None:
        limit = self.config.gradient_explosion_threshold
        explodes = not norm <= limit  # NaN too
        if explodes and not self._exploding:
            message = f"the gradient norm is {norm:.4g} at step {step}, above {limit:g}"
            self.alerts.trigger_alert(GRADIENT_EXPLOSION, message, {"step": step, "gradient_norm": norm})
        self._exploding = explodes

    def look_at_validation(self, step: int, metrics: Mapping[str, float]) -> None:
        loss, before = metrics.get("val/loss"), self._before.get("val/loss")
        if loss is not None and before is not None:
            rise = (loss - before) / abs(before) if before else math.inf if loss > 0 else 0.0
            if not rise <= self.config.val_loss_spike_threshold:
                message = f"the validation loss went from {before:.4g} to {loss:.4g} at step {step}"
                self.alerts.trigger_alert(VAL_LOSS_SPIKE, message, {"step": step, "val/loss": loss})
        accuracy, best = metrics.get("val/accuracy"), self._before.get("val/accuracy")
        limit = self.config.accuracy_drop_threshold
        if accuracy is not None and best is not None and best - accuracy > limit:
            message = f"the validation accuracy fell from {best:.1%} to {accuracy:.1%} at step {step}"
            self.alerts.trigger_alert(ACCURACY_DROP, message, {"step": step, "val/accuracy": accuracy})
        self._before |= {key: value for key, value in metrics.items() if math.isfinite(value)}
