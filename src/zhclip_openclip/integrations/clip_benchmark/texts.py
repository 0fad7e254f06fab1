"""How Chinese text reaches models that are not ours, in an evaluation: its authors' way or the host's."""

from __future__ import annotations

from zhclip_openclip.integrations.clip_benchmark import checks, evaluation
from zhclip_openclip.prompts import languages
from zhclip_openclip.towers import text_handling
from zhclip_openclip.towers.text_handling import AUTHORS, HOST


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
            evaluation.say(f"{text_handling.OPTION} {HOST}: {model_name} has its authors' tokenizer alone")
        return tokenizer
    handling = text_handling.of_authors(model_name, tokenizer)
    if handling is None or asked == HOST:
        running.text_handling = {"text_handling": HOST}
        return tokenizer
    language = _language(running.args) if chinese else ""
    told = " ".join(filter(None, (handling.told, handling.languages.get(language))))
    running.text_handling = {"text_handling": AUTHORS, "text_handling_note": f"{handling.name}: {told}"}
    evaluation.say(f"texts reach {model_name} {told} ({text_handling.OPTION} {HOST} for open_clip's way)")
    return text_handling.AuthorsTokenizer(tokenizer, handling, language)


def _language(args) -> str:
    """`zh` or `zh_Hant`. The captions of the Chinese retrieval sets are simplified, whatever --language says."""
    language = languages.normalise(args.language)
    return language if language == languages.TRADITIONAL else languages.SIMPLIFIED
