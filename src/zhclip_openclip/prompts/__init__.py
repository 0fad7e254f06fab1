"""Chinese prompts for classification: languages, class names, template sets, and the classifier made of them."""

from zhclip_openclip.prompts._localise import chinese_arguments, for_classes, is_chinese, localise, own_names, prepare
from zhclip_openclip.prompts.checks import check
from zhclip_openclip.prompts.languages import normalise

__all__ = ["check", "chinese_arguments", "for_classes", "is_chinese", "localise", "normalise", "own_names", "prepare"]
