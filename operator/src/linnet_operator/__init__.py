"""The operator: Kopf feeds, tasks turn, a pure planner decides, one adapter writes."""
