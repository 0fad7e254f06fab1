"""Training data with exact relations: pairs of a retrieval set, batches without repeats, losses that know every right
pair. Nothing here knows a trainer or a model."""

from zhclip_openclip.training._errors import TrainingError
from zhclip_openclip.training.loss import MultiPositiveLoss
from zhclip_openclip.training.pairs import Pairs
from zhclip_openclip.training.relations import Relations
from zhclip_openclip.training.sampler import PairBatches

__all__ = ["MultiPositiveLoss", "PairBatches", "Pairs", "Relations", "TrainingError"]
