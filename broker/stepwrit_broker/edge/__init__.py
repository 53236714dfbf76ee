"""Listeners and faces: parse, call one flow, render."""
