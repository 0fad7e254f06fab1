"""How Chinese text reaches models that are not ours, in an evaluation: its authors' way or the host's."""

from __future__ import annotations

from zhclip_openclip.integrations.clip_benchmark import checks, evaluation
from zhclip_openclip.prompts import languages
from zhclip_openclip.towers import text_handling
from zhclip_openclip.towers.text_handling import AUTHORS, HOST, OPTION


def handled(model_type: str, model_name: str, model, tokenizer):
    """The tokenizer that the evaluation takes: `tokenizer` itself, unless Chinese text is to reach a model that is not
    ours as its authors feed it. Which of the two it is goes into the result.

    Raises ZhclipError: it is to, and cannot.
    """
    running = evaluation.current()
    if running is None or model_type != "open_clip":
        return tokenizer
    asked = running.options.text_handling
    chinese = checks.is_chinese_text(running.args)
    if not chinese and asked is None:
        return tokenizer
    if getattr(model, "zhclip_model", None) is not None:
        if asked == HOST:
            evaluation.say(f"{OPTION} {HOST}: {model_name} has its authors' tokenizer alone")
        return tokenizer
    language = _language(running.args) if chinese else ""
    tokenizer, running.text_handling = text_handling.chosen(model_name, tokenizer, language, asked or AUTHORS)
    if note := running.text_handling.get("text_handling_note"):
        evaluation.say(f"texts reach {model_name} as its authors feed them ({note}); not so with {OPTION} {HOST}")
    return tokenizer


def _language(args) -> str:
    """`zh` or `zh_Hant`. The captions of the Chinese retrieval sets are simplified, whatever --language says."""
    if checks.is_our_retrieval(args.dataset):
        return languages.SIMPLIFIED
    language = languages.normalise(args.language)
    return language if language == languages.TRADITIONAL else languages.SIMPLIFIED
