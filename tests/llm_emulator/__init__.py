"""An OpenAI-compatible endpoint on 127.0.0.1 that answers as told: well, badly, late, without end or not at all."""
