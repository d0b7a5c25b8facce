"""Voices: a call's connection to one vendor (`voice`), one reply on its way from text to sound (`speech`), what tells
the vendors apart (`cartesia`, `elevenlabs`), and the order in which they are asked (`chain`)."""
