"""Building a model without the random initialisation that its checkpoint overwrites."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.overrides import TorchFunctionMode

from zhclip_openclip._errors import CheckpointError, shorten


class NoInit(TorchFunctionMode):
    """While active, operations that change a parameter in place are skipped.

    For models that are loaded with strict keys afterwards, so that no parameter keeps what it had. Parameters are then
    never written before the checkpoint is, and memory that was only allocated costs nothing. Buffers and everything
    that is computed (position ids, masks) are left alone, which building on the meta device would not do.

    It ends with :meth:`end`, before the first weights are read: whatever is loaded after that is meant. What was
    skipped is remembered, and :meth:`refuse_unfilled` holds it against what was filled.
    """

    def __init__(self):
        super().__init__()
        self.ended, self._skipped = False, False
        self._filled: set[str] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.ended:
            return func(*args, **kwargs)
        # torch.nn.init passes its tensor by name; inside its functions this mode is not active any more.
        changed = args[0] if args else kwargs.get("tensor")
        if isinstance(changed, torch.nn.Parameter):
            name = getattr(func, "__name__", "")
            if name.endswith("_") and not name.endswith("__") and name not in _NO_INITIALISATION:
                self._skipped = True
                return changed
        return func(*args, **kwargs)

    def end(self) -> None:
        """From here on everything is done."""
        self.ended = True

    def fill(self, names: Iterable[str]) -> None:
        """These parameters have been given their values."""
        self._filled.update(names)

    def refuse_unfilled(self, model: torch.nn.Module, name: str) -> None:
        """Raises CheckpointError: initialisation was skipped, and a parameter was given no value afterwards."""
        unfilled = [key for key, _ in model.named_parameters() if key not in self._filled]
        if self._skipped and unfilled:
            raise CheckpointError(
                f"{name} was not loaded: {len(unfilled)} parameters were given no values ({shorten(unfilled)}); "
                "this is a bug of this package"
            )


#: In-place methods of tensors that set properties and no values.
_NO_INITIALISATION = {"requires_grad_", "share_memory_", "retain_grad_", "detach_"}
