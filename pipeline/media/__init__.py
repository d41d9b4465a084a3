"""Turns a file into the wanted frames and sound: sampling policies, exact decoding, and the child process that decodes.

A leaf: nothing here imports the rest of Reelstore. The child imports av, numpy and the standard library alone.
"""

from pipeline.media.audio import SEEK_FROM_S
from pipeline.media.decoding import decode, fallen_back
from pipeline.media.device_pictures import read_picks
from pipeline.media.errors import RefusalError
from pipeline.media.frame_plan import MAX_RATE
from pipeline.media.image_folder import is_image, list_images
from pipeline.media.recipes import device_recipe, recipe
from pipeline.media.sampling import Clips, Policy, SamplingError, Segments, policy_from_spec
from pipeline.media.sound_windows import audio_steps, damaged_windows
from pipeline.media.supervisor import MediaProcess
from pipeline.media.timeline import Samples
from pipeline.media.types import (
    FAILURE_CLASSES,
    PERMANENT,
    Audio,
    AudioRequest,
    DecodeRequest,
    Event,
    FailureClass,
    Findings,
    Frame,
    Header,
    Limits,
    MediaError,
    Picks,
    StreamFailure,
    Survey,
)

__all__ = [
    "FAILURE_CLASSES",
    "MAX_RATE",
    "PERMANENT",
    "SEEK_FROM_S",
    "Audio",
    "AudioRequest",
    "Clips",
    "DecodeRequest",
    "Event",
    "FailureClass",
    "Findings",
    "Frame",
    "Header",
    "Limits",
    "MediaError",
    "MediaProcess",
    "Picks",
    "Policy",
    "RefusalError",
    "Samples",
    "SamplingError",
    "Segments",
    "StreamFailure",
    "Survey",
    "audio_steps",
    "damaged_windows",
    "decode",
    "device_recipe",
    "fallen_back",
    "is_image",
    "list_images",
    "policy_from_spec",
    "read_picks",
    "recipe",
]
