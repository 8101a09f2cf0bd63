"""Serving: live, batch and video from one small process tree."""
