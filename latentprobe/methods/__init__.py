"""One small file per published method; `detect` finds the one a checkpoint was trained with."""

from latentprobe.methods.detect import detect, resolve_tokens
from latentprobe.methods.spec import AnswerSpec, MethodSpec, PromptSpec, methods

__all__ = ["AnswerSpec", "MethodSpec", "PromptSpec", "detect", "methods", "resolve_tokens"]
