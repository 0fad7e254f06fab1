"""Linear probes: a linear classifier trained on the image features of a model, and kept in a file of its own."""

from zhclip_openclip.probes._errors import ProbeError
from zhclip_openclip.probes.saved import Probe, load_probe, save_probe

__all__ = ["Probe", "ProbeError", "load_probe", "save_probe"]
