"""Measure how long everything takes; this folder lies on top of every other one."""
