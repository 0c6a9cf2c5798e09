"""MLflow tracking of runs that go on after a stop."""

from __future__ import annotations

from typing import Any

from monai.handlers import MLFlowHandler


class ResumedMLFlowHandler(MLFlowHandler):
    """MONAI's, for a run that may be one that was stopped: what its first start logged of settings stands.

    MLflow refuses to change a parameter of a run, and a resumed one may differ where it is allowed to: in its length,
    or in the precision of another machine. Whether settings fit is :class:`cps4_monai.handlers.ResumeHandler`'s to say.
    """

    def _log_params(self, params: dict[str, Any]) -> None:
        new = dict(params)
        self._delete_exist_param_in_dict(new)
        super()._log_params(new)
