"""The sqitch project itself, shipped as package data; no code lives here."""

from __future__ import annotations
