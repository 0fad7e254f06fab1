"""Building a model without the random initialisation that its checkpoint overwrites."""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode


class NoInit(TorchFunctionMode):
    """While active, operations that change a parameter in place are skipped.

    For models that are loaded with strict keys afterwards, so that no parameter keeps what it had. Parameters are then
    never written before the checkpoint is, and memory that was only allocated costs nothing. Buffers and everything
    that is computed (position ids, masks) are left alone, which building on the meta device would not do.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # torch.nn.init passes its tensor by name; inside its functions this mode is not active any more.
        changed = args[0] if args else kwargs.get("tensor")
        if isinstance(changed, torch.nn.Parameter):
            name = getattr(func, "__name__", "")
            if name.endswith("_") and not name.endswith("__") and name not in _NO_INITIALISATION:
                return changed
        return func(*args, **kwargs)


#: In-place methods of tensors that set properties and no values.
_NO_INITIALISATION = {"requires_grad_", "share_memory_", "retain_grad_", "detach_"}
