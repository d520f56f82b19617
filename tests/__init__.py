"""Tests: unit (mirrors the source), integration, clients (real clients), bench, repository (rules)."""
