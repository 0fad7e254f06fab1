"""The loss of a training run whose data has exact pairs."""

from __future__ import annotations

import inspect
import logging


def train_one_epoch(original):
    """What stands for `open_clip_train.train.train_one_epoch`: for an epoch over data of ours it gets our loss.

    The loop of version 3 is given its loss; that of 4 has it in its task.
    """
    signature = inspect.signature(original)

    def train_one_epoch(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        given = call.arguments
        data, options = given["data"]["train"].dataloader, given["args"]
        pairs = getattr(data, "pairs", None)
        if pairs is None or getattr(options, "plain_loss", False):
            return original(*args, **kwargs)
        if "loss" in given:
            given["loss"] = _ours(given["loss"], data, options)
        else:
            task = given["state"].task
            task.loss = _ours(task.loss, data, options)
        return original(*call.args, **call.kwargs)

    return train_one_epoch


def _ours(loss, data, options):
    from zhclip_openclip.training import MultiPositiveLoss

    if isinstance(loss, MultiPositiveLoss) or not hasattr(loss, "get_logits"):
        return loss
    if getattr(options, "horovod", False) and options.world_size > 1:
        logging.warning("horovod: the host's own loss is used, in which right answers may count as wrong")
        return loss
    return MultiPositiveLoss(loss, data.pairs.relations, data.recent)
