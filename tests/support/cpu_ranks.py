"""open_clip_train's command on several processes without GPUs. Not a test.

Version 3 hands DistributedDataParallel the device of a process even where it is a CPU, which torch refuses; here it is
left out. Everything else is as it is installed.
"""

import runpy

import torch

Wrapped = torch.nn.parallel.DistributedDataParallel


class OnCpu(Wrapped):
    def __init__(self, module, device_ids=None, **options):
        super().__init__(module, **options)


if __name__ == "__main__":
    torch.nn.parallel.DistributedDataParallel = OnCpu
    runpy.run_module("open_clip_train.main", run_name="__main__", alter_sys=True)
