"""One small file per published method; `detect` finds the one a checkpoint was trained with."""

from latentprobe.methods.detect import detect, resolve_tokens
from latentprobe.methods.spec import AnswerSpec, MethodSpec, PromptSpec, methods

names, get, register = methods.names, methods.get, methods.register

__all__ = [
    "AnswerSpec",
    "MethodSpec",
    "PromptSpec",
    "detect",
    "get",
    "methods",
    "names",
    "register",
    "resolve_tokens",
]
