"""CoQo: audio-visual question answering with the questions of a video reasoned over together (facts 3)."""
