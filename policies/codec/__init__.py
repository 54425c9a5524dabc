"""The codec: a chunk of actions as a short string of ids, any prefix of which decodes to a coarser chunk."""

from policies.codec.codec import Codec
from policies.settings import CodecConfig

__all__ = ["Codec", "CodecConfig"]
